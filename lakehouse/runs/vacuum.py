"""VACUUM: removes files that a table's versions of today do not need, unless a registered model needs them. Without Spark."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakehouse.deltalog import sql
from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import DeclarationError, StorageError, VacuumError, first_line
from lakehouse.ml.retention import _needing, _registered
from lakehouse.storage import location, s3
from lakehouse.storage.lock import run_lock

if TYPE_CHECKING:
    from lakehouse.deltalog.commit_record import Run
    from lakehouse.deltalog.table_log import TableLog
    from lakehouse.ml.retention import Needs
    from lakehouse.settings import Settings

HOURS = 24


@dataclass(frozen=True)
class Vacuumed:
    """What was removed, or would be: how many files, and their bytes. ``needed`` stands in the way."""

    table: str
    files: int
    bytes: int
    needed: tuple[Needs, ...]


def vacuum(
    settings: Settings, table: str, run: Run, *, keep_days: int | None, forget: Sequence[str], dry_run: bool
) -> Vacuumed:
    """Remove the files that only versions older than ``keep_days`` need; by default than the table itself says.

    ``forget`` names versions of registered models, such as late_arrival:3, that need not be reproducible any longer.

    Raises:
        DeclarationError: there is no such table.
        VacuumError: a registered model needs some of them, MLflow cannot say which do, or the table keeps its files for longer:
            nothing was removed.
        LockError: another run holds the lake.
    """
    path = sql.tables(settings.lake).get(table)
    if path is None:
        raise DeclarationError(f"{table!r} is not a table of the lake; it has {', '.join(sql.tables(settings.lake))}.")
    with nullcontext() if dry_run else run_lock(settings.root, run.id, settings.lock_wait_seconds, run.hold):
        opened = open_log(path)
        assert opened is not None
        listed = location.look_up(path, _vacuum(table, opened, keep_days, [], dry_run=True))
        doomed = {
            name: one.size for name, one in listed.items() if isinstance(one, location.Found)
        }  # others went before
        registered = _registered(settings.tracking_uri, table, opened, forget) if doomed else []
        needed = [one for one in _needing(registered, opened, set(doomed)) if one.files]
        if needed and not dry_run:
            raise VacuumError(_refusal(table, needed))
        if doomed and not dry_run:
            # Named again, as a file may have come of age since the list was made.
            _vacuum(table, opened, keep_days, [one.delta_version for one in registered], dry_run=False)
        return Vacuumed(table, len(doomed), sum(doomed.values()), tuple(needed))


def _vacuum(
    table: str, opened: TableLog, keep_days: int | None, keep_versions: list[int], *, dry_run: bool
) -> set[str]:
    from deltalake import PostCommitHookProperties
    from deltalake.exceptions import DeltaError

    hours = None if keep_days is None else keep_days * HOURS
    # Its commits change no rows, so that they clean up no log that time travel needs.
    log_stays = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
    try:
        return set(
            opened.delta.vacuum(
                hours,
                dry_run,
                full=True,
                keep_versions=sorted(set(keep_versions)),
                post_commithook_properties=log_stays,
            )
        )
    except (DeltaError, OSError) as error:
        if said := s3.explained(error):
            raise StorageError(f"{table}: {said}") from error
        raise VacuumError(
            f"{table}: {first_line(error)}. Nothing was removed; name more days (`--keep-days`)."
        ) from error


def _refusal(table: str, needed: Sequence[Needs]) -> str:
    lines = "".join(
        f"\n  - {one.model} version {one.version} was trained on version {one.delta_version}, {one.files} files of which would go: "
        f"--forget {one.name}"
        for one in needed
    )
    return f"Registered models need versions of {table} to be reproduced, so nothing was removed. An option lets go of each:{lines}"
