"""Which versions of a table the registered models need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import LedgerError, ModelError, VacuumError
from lakehouse.ml.mlflow_client import NOT_FOUND_CODES, sqlite_file, tracking_client
from lakehouse.runs.vacuum import Pin

if TYPE_CHECKING:
    from lakehouse.deltalog.table_log import TableLog


def pinned_versions(uri: str, table: str, opened: TableLog, forget: Sequence[str]) -> list[Pin]:
    """Return the existing versions of a table that registered models were trained on, sorted by model and version.

    Args:
        uri: MLflow's tracking server or database.
        forget: versions of models, such as late_arrival:3, that pin nothing.

    Raises:
        VacuumError: MLflow cannot be asked, or has no such version of a model as ``forget`` names.
    """
    database = sqlite_file(uri)
    if database and not database.exists() and not forget:
        return []  # nothing was ever registered
    try:
        with tracking_client(uri) as client:
            entries = {f"{one.name}:{one.version}": one for one in _versions(client)}
            if unknown := [name for name in forget if name not in entries]:
                raise VacuumError(
                    f"No registered model is called {', '.join(unknown)}; known are {', '.join(entries) or 'none'}."
                )
            found = [_pin_of(client, one, table, opened) for name, one in entries.items() if name not in forget]
    except ModelError as error:
        raise VacuumError(
            f"Nothing was removed, as which versions of {table} its models need could not be found out. {error}"
        ) from error
    there = [one for one in found if one and _can_open(opened, one.delta_version)]
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


def _pin_of(client: Any, entry: Any, table: str, opened: TableLog) -> Pin | None:
    from mlflow import MlflowException

    try:
        params = client.get_run(entry.run_id).data.params
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            raise ModelError(
                f"The run that made {entry.name} version {entry.version} is gone: --forget {entry.name}:{entry.version} does without."
            ) from error
        raise
    trained_on = (params.get("feature_table"), params.get("feature_table_id"))
    if trained_on != (table, str(opened.delta_table.metadata().id)):
        return None
    return Pin(entry.name, int(entry.version), int(params["delta_version"]))


def _can_open(opened: TableLog, version: int) -> bool:
    """Whether a version can still be opened: one whose log is gone cannot be kept by its files."""
    try:
        return version <= opened.version and open_log(opened.path, version) is not None
    except LedgerError:
        return False
