"""Remove files that only old versions of a table need, unless a registered model needs them (VACUUM). Without Spark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from lakehouse.deltalog import sql
from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import DeclarationError, StorageError, VacuumError, get_first_line
from lakehouse.storage import location, s3
from lakehouse.storage.lock import lock_lake

if TYPE_CHECKING:
    from lakehouse.deltalog.commit_record import Run
    from lakehouse.deltalog.table_log import TableLog
    from lakehouse.settings import Settings

HOURS_PER_DAY = 24


@dataclass(frozen=True)
class Pin:
    """A version of a table that must stay readable, because a registered model was trained on it.

    Attributes:
        model: the registered model.
        version: the model's version.
        delta_version: the version of the table.
        files: the number of its files that would be removed.
    """

    model: str
    version: int
    delta_version: int
    files: int = 0

    @property
    def name(self) -> str:
        """Return the name of the model's version, such as late_arrival:3."""
        return f"{self.model}:{self.version}"


@dataclass(frozen=True)
class VacuumResult:
    """The number and bytes of the files that were removed, or would be in a dry run.

    Attributes:
        blocking_pins: versions that prevent the removal.
    """

    table: str
    files: int
    bytes: int
    blocking_pins: tuple[Pin, ...]


def vacuum_table(
    settings: Settings,
    table: str,
    run: Run,
    find_pins: Callable[[TableLog], Sequence[Pin]],
    *,
    keep_days: int | None,
    dry_run: bool,
) -> VacuumResult:
    """Remove the files that only versions older than ``keep_days`` need.

    Args:
        find_pins: returns the pinned versions of the table. It is called only if there are files to remove.
        keep_days: the retention in days; by default the retention of the table.

    Raises:
        DeclarationError: there is no such table.
        VacuumError: a pinned version needs some of the files, or the table has a longer retention. Nothing was removed.
        LockError: another run holds the lake.
    """
    tables = sql.find_tables(settings.lake)
    path = tables.get(table)
    if path is None:
        raise DeclarationError(f"{table!r} is not a table of the lake. Choose one of {', '.join(tables)}.")
    with nullcontext() if dry_run else lock_lake(settings.root, run.id, settings.lock_wait_seconds, run.lease):
        log = open_log(path)
        assert log is not None
        states = location.stat_files(path, _run_vacuum(table, log, keep_days, [], dry_run=True))
        # Files without a state were removed before.
        sizes = {name: state.size for name, state in states.items() if isinstance(state, location.FileInfo)}
        pins = find_pins(log) if sizes else []
        blocking = [pin for pin in _count_removed_files(pins, log, set(sizes)) if pin.files]
        if blocking and not dry_run:
            raise VacuumError(_describe_refusal(table, blocking))
        if sizes and not dry_run:
            # All pins, as more files may have passed the retention since.
            _run_vacuum(table, log, keep_days, [pin.delta_version for pin in pins], dry_run=False)
        return VacuumResult(table, len(sizes), sum(sizes.values()), tuple(blocking))


def _count_removed_files(pins: Sequence[Pin], log: TableLog, names: set[str]) -> Iterator[Pin]:
    """Yield each pin with the number of its version's files among those to remove."""
    for pin in pins:
        version = open_log(log.path, pin.delta_version)
        files = {unquote(path) for path in version.list_files()} if version else set()
        yield replace(pin, files=len(files & names))


def _run_vacuum(
    table: str, log: TableLog, keep_days: int | None, keep_versions: list[int], *, dry_run: bool
) -> set[str]:
    from deltalake import PostCommitHookProperties
    from deltalake.exceptions import DeltaError

    hours = None if keep_days is None else keep_days * HOURS_PER_DAY
    # The commits of a vacuum change no rows. They must not clean up log files that time travel needs.
    log_properties = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
    try:
        return set(
            log.delta_table.vacuum(
                hours,
                dry_run,
                full=True,
                keep_versions=sorted(set(keep_versions)),
                post_commithook_properties=log_properties,
            )
        )
    except (DeltaError, OSError) as error:
        if explanation := s3.explain_error(error):
            raise StorageError(f"{table}: {explanation}") from error
        raise VacuumError(
            f"{table}: {get_first_line(error)}. Nothing was removed; pass more days with --keep-days."
        ) from error


def _describe_refusal(table: str, blocking: Sequence[Pin]) -> str:
    lines = "".join(
        f"\n  - {pin.model} version {pin.version} was trained on version {pin.delta_version}, "
        f"which would lose {pin.files} files: --forget {pin.name}"
        for pin in blocking
    )
    return (
        f"{table}: registered models need old versions to be reproducible, so nothing was removed. "
        f"Release a version with its option:{lines}"
    )
