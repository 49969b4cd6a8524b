"""VACUUM: removes files that only a table's old versions need, unless a registered model needs them. Without Spark."""

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
    """A version of a table that must stay readable, as a registered model was trained on it.

    Attributes:
        model: the registered model.
        version: the model's version.
        delta_version: the version of the table.
        files: how many files of that version would be removed.
    """

    model: str
    version: int
    delta_version: int
    files: int = 0

    @property
    def name(self) -> str:
        return f"{self.model}:{self.version}"


@dataclass(frozen=True)
class VacuumResult:
    """What was removed, or would be: how many files, and their bytes. ``needed`` stands in the way."""

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
    """Remove the files that only versions older than ``keep_days`` need; by default than the table itself says.

    Args:
        pinned: returns the table's pinned versions. It is called only if there are files to remove.

    Raises:
        DeclarationError: there is no such table.
        VacuumError: a pinned version needs some of the files, or the table keeps its files for longer: nothing was removed.
        LockError: another run holds the lake.
    """
    path = sql.find_tables(settings.lake).get(table)
    if path is None:
        raise DeclarationError(
            f"{table!r} is not a table of the lake; it has {', '.join(sql.find_tables(settings.lake))}."
        )
    with nullcontext() if dry_run else lock_lake(settings.root, run.id, settings.lock_wait_seconds, run.lease):
        opened = open_log(path)
        assert opened is not None
        listed = location.stat_files(path, _run_vacuum(table, opened, keep_days, [], dry_run=True))
        doomed = {
            name: one.size for name, one in listed.items() if isinstance(one, location.FileInfo)
        }  # others went before
        pins = find_pins(opened) if doomed else []
        needed = [pin for pin in _count_doomed(pins, opened, set(doomed)) if pin.files]
        if needed and not dry_run:
            raise VacuumError(_describe_refusal(table, needed))
        if doomed and not dry_run:
            # Named again, as a file may have come of age since the list was made.
            _run_vacuum(table, opened, keep_days, [pin.delta_version for pin in pins], dry_run=False)
        return VacuumResult(table, len(doomed), sum(doomed.values()), tuple(needed))


def _count_doomed(pins: Sequence[Pin], opened: TableLog, doomed: set[str]) -> Iterator[Pin]:
    """Yield each pin with the number of its version's files that would be removed."""
    for pin in pins:
        version = open_log(opened.path, pin.delta_version)
        files = {unquote(path) for path in version.list_files()} if version else set()
        yield replace(pin, files=len(files & doomed))


def _run_vacuum(
    table: str, opened: TableLog, keep_days: int | None, keep_versions: list[int], *, dry_run: bool
) -> set[str]:
    from deltalake import PostCommitHookProperties
    from deltalake.exceptions import DeltaError

    hours = None if keep_days is None else keep_days * HOURS_PER_DAY
    # Its commits change no rows, so that they clean up no log that time travel needs.
    log_stays = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
    try:
        return set(
            opened.delta_table.vacuum(
                hours,
                dry_run,
                full=True,
                keep_versions=sorted(set(keep_versions)),
                post_commithook_properties=log_stays,
            )
        )
    except (DeltaError, OSError) as error:
        if said := s3.explain_error(error):
            raise StorageError(f"{table}: {said}") from error
        raise VacuumError(
            f"{table}: {get_first_line(error)}. Nothing was removed; name more days (`--keep-days`)."
        ) from error


def _describe_refusal(table: str, needed: Sequence[Pin]) -> str:
    lines = "".join(
        f"\n  - {one.model} version {one.version} was trained on version {one.delta_version}, {one.files} files of which would go: "
        f"--forget {one.name}"
        for one in needed
    )
    return f"Registered models need versions of {table} to be reproduced, so nothing was removed. An option lets go of each:{lines}"
