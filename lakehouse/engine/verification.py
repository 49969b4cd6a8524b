"""Verification of a commit after it was made, by the table's log."""

from __future__ import annotations

from collections.abc import Callable

from lakehouse.deltalog import digests
from lakehouse.deltalog.table_log import TableLog, open_log
from lakehouse.engine.base import Commit, Target
from lakehouse.errors import LedgerError

# Numbers of versions to search for a commit. Others may have committed since.
_SEARCH_LIMITS = (1, 100)


def commit_once(target: Target, commit: Commit, write: Callable[[], object]) -> TableLog:
    """Make a commit, and verify it. After any error, the log decides whether it was made.

    Returns:
        The log with the commit.

    Raises:
        Exception: The error of the write, if the commit was not made.
        LedgerError: Another writer used the batch's number.
        DamagedFileError: The disk reports that it did not store a file of the commit.
    """
    try:
        write()
    except Exception:  # A lost answer, a conflict and a failed checkpoint can raise the same error.
        if not _is_committed(target, commit):
            raise
    return _verify_commit(target, commit)


def _is_committed(target: Target, commit: Commit) -> bool:
    """Return whether the log of the table has the commit."""
    log = open_log(target.path)
    return log is not None and _find_version(log, commit) is not None


def _verify_commit(target: Target, commit: Commit) -> TableLog:
    """Check that the commit was made, and write its digests. Delta skips a used transaction version without an error.

    Returns:
        The log with the commit.

    Raises:
        LedgerError: Another writer used the batch's number.
        DamagedFileError: The disk reports that it did not store a file of the commit.
    """
    log = open_log(target.path)
    version = _find_version(log, commit) if log else None
    if log is None or version is None:
        raise build_number_error(target, commit)
    digests.write_digests(target.path, version)
    return log


def build_number_error(target: Target, commit: Commit) -> LedgerError:
    """Build the error of a batch number that another writer used."""
    return LedgerError(
        f"{target.name}: batch {commit.record.batch} was not committed by this run; another writer used its number. "
        "Run again to continue from the table's latest version."
    )


def _find_version(log: TableLog, commit: Commit) -> int | None:
    """Return the version that a commit made; None where the newest versions are those of others."""
    for limit in _SEARCH_LIMITS:
        for entry in log.read_entries(limit):
            record = entry.record
            if record and (record.run, record.batch, record.generation) == _identify(commit):
                return entry.version
    return None


def _identify(commit: Commit) -> tuple[str, int, int]:
    return commit.record.run, commit.record.batch, commit.record.generation
