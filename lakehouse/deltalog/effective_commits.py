"""Commits of a table that still count, after rollbacks and rebuilds."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse.deltalog.commit_record import InputVersion
from lakehouse.deltalog.table_log import Entry, TableLog


def filter_effective(entries: Sequence[Entry]) -> list[Entry]:
    """Return the recorded commits that the table's rows come from, newest first.

    Commits that were rolled back are left out, and so are the rollbacks.
    """
    effective: list[Entry] = []
    restored_version: int | None = None
    for entry in entries:
        if entry.record is None or (restored_version is not None and entry.version > restored_version):
            continue
        if entry.record.rolled_back_run:
            restored_version = entry.record.restored_version
        else:
            effective.append(entry)
    return effective


def resolve_version(entries: Sequence[Entry], input_version: InputVersion) -> InputVersion:
    """Return the current version with the same rows as a consumed one: that of the rollback that restored them, if any.

    A reader that has read nothing of the rolled back run continues from there, across the new generation.
    """
    for entry in reversed(entries):
        if entry.record and entry.record.rolled_back_run and entry.record.restored_version == input_version.version:
            input_version = InputVersion(entry.version, entry.record.generation)
    return input_version


def resolve_current_version(log: TableLog | None, input_version: InputVersion) -> InputVersion:
    """Resolve a version as `resolve_version` does. The log is scanned only where the table's generation has changed."""
    record = log.last.record if log and log.last else None
    is_same = record is None or record.generation == input_version.generation
    return input_version if log is None or is_same else resolve_version(log.read_entries(), input_version)


def is_rolled_back(entries: Sequence[Entry], version: int) -> bool:
    """Return whether a later commit rolled that version back."""
    rollbacks = (e for e in entries if e.record and e.record.rolled_back_run)
    return any(e.record.restored_version < version < e.version for e in rollbacks if e.record)
