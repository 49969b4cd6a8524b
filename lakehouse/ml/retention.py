"""Which versions of a table the registered models need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import LedgerError, ModelError, VacuumError
from lakehouse.ml.mlflow_client import GONE, sqlite_file, tracking

if TYPE_CHECKING:
    from lakehouse.deltalog.table_log import TableLog


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
