"""VACUUM: removes files that a table's versions of today do not need, unless a registered model needs them. Without Spark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from lakehouse import query, s3, storage
from lakehouse.errors import DeclarationError, LedgerError, ModelError, StorageError, VacuumError, first_line
from lakehouse.lock import run_lock
from lakehouse.log import open_log
from lakehouse.tracking import GONE, sqlite_file, tracking

if TYPE_CHECKING:
    from lakehouse.ledger import Run
    from lakehouse.log import TableLog
    from lakehouse.settings import Settings

HOURS = 24


@dataclass(frozen=True)
class Needs:
    """A registered model's version, and the version of the table that it was trained on; ``files`` of it would be removed."""

    model: str
    version: int
    delta_version: int
    files: int = 0

    @property
    def name(self) -> str:
        return f"{self.model}:{self.version}"


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
    path = query.tables(settings.lake).get(table)
    if path is None:
        raise DeclarationError(
            f"{table!r} is not a table of the lake; it has {', '.join(query.tables(settings.lake))}."
        )
    with nullcontext() if dry_run else run_lock(settings.root, run.id, settings.lock_wait_seconds, run.hold):
        opened = open_log(path)
        assert opened is not None
        listed = storage.look_up(path, _vacuum(table, opened, keep_days, [], dry_run=True))
        doomed = {
            name: one.size for name, one in listed.items() if isinstance(one, storage.Found)
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


def _needing(registered: Sequence[Needs], opened: TableLog, doomed: set[str]) -> Iterator[Needs]:
    for one in registered:
        then = open_log(opened.path, one.delta_version)
        there = {unquote(path) for path in then.paths()} if then else set()
        yield Needs(one.model, one.version, one.delta_version, len(there & doomed))


def _registered(uri: str, table: str, opened: TableLog, forget: Sequence[str]) -> list[Needs]:
    """The models' versions that were trained on this table, but for those to ``forget``, where the table still has the version.

    Raises:
        VacuumError: MLflow cannot say, or does not know what is to be forgotten.
    """
    database = sqlite_file(uri)
    if database and not database.exists() and not forget:
        return []  # nothing was ever registered
    try:
        with tracking(uri) as client:
            entries = {f"{one.name}:{one.version}": one for one in _versions(client)}
            if unknown := [name for name in forget if name not in entries]:
                raise VacuumError(
                    f"No registered model is called {', '.join(unknown)}; known are {', '.join(entries) or 'none'}."
                )
            found = [_needs(client, one, table, opened) for name, one in entries.items() if name not in forget]
    except ModelError as error:
        raise VacuumError(
            f"Nothing was removed, as which versions of {table} its models need could not be found out. {error}"
        ) from error
    there = [one for one in found if one and _is_there(opened, one.delta_version)]
    return sorted(there, key=lambda one: (one.model, one.version))


def _versions(client: Any) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_model_versions(page_token=token)
        # Others' models may be in the same registry.
        yield from (one for one in page if "delta_version" in one.tags)
        token = page.token
        if not token:
            return


def _needs(client: Any, entry: Any, table: str, opened: TableLog) -> Needs | None:
    from mlflow import MlflowException

    try:
        params = client.get_run(entry.run_id).data.params
    except MlflowException as error:
        if error.error_code in GONE:
            raise ModelError(
                f"The run that made {entry.name} version {entry.version} is gone: --forget {entry.name}:{entry.version} does without."
            ) from error
        raise
    trained_on = (params.get("feature_table"), params.get("feature_table_id"))
    if trained_on != (table, str(opened.delta.metadata().id)):
        return None
    return Needs(entry.name, int(entry.version), int(params["delta_version"]))


def _is_there(opened: TableLog, version: int) -> bool:
    """Whether a version can still be opened: one whose log is gone cannot be kept by its files."""
    try:
        return version <= opened.version and open_log(opened.path, version) is not None
    except LedgerError:
        return False
