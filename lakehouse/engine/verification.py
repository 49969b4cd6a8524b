"""Verification of a commit after it was made, by the table's log."""

from __future__ import annotations

from lakehouse.deltalog import digests, table_log
from lakehouse.engine.base import Commit, Target
from lakehouse.errors import LedgerError


def is_committed(target: Target, commit: Commit) -> bool:
    """Return whether the newest record of the table is that of the commit."""
    log = table_log.open_log(target.path)
    return _find_version(log, commit) is not None


def verify_commit(target: Target, commit: Commit) -> None:
    """Check that the commit was made, and write its digests. Delta skips a used transaction version without an error.

    Raises:
        LedgerError: Another writer used the batch's number.
    """
    log = table_log.open_log(target.path)
    version = _find_version(log, commit)
    if log is None or version is None:
        raise build_number_error(target, commit)
    digests.write_digests(log, version)


def build_number_error(target: Target, commit: Commit) -> LedgerError:
    """Build the error of a batch number that another writer used."""
    return LedgerError(
        f"{target.name}: batch {commit.record.batch} was not committed by this run; another writer used its number. "
        "Run again to continue from the table's latest version."
    )


def _find_version(log: table_log.TableLog | None, commit: Commit) -> int | None:
    entry = log.last if log else None
    record = entry.record if entry else None
    is_own = record is not None and (record.run, record.batch) == (commit.record.run, commit.record.batch)
    return entry.version if entry and is_own else None
