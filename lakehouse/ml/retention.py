"""Retention of table versions that registered models were trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import LedgerError, ModelError, VacuumError
from lakehouse.ml.mlflow_client import NOT_FOUND_CODES, get_sqlite_file, open_tracking_client
from lakehouse.runs.vacuum import Pin

if TYPE_CHECKING:
    from lakehouse.deltalog.table_log import TableLog


def find_pinned_versions(uri: str, table: str, opened: TableLog, forget: Sequence[str]) -> list[Pin]:
    """Return the existing versions of a table that registered models were trained on, sorted by model and version.

    Args:
        uri: MLflow's tracking server or database.
        forget: versions of models, such as late_arrival:3, that pin nothing.

    Raises:
        VacuumError: MLflow cannot be used, or has no model version that ``forget`` names.
    """
    database = get_sqlite_file(uri)
    if database and not database.exists() and not forget:
        return []  # nothing was ever registered
    try:
        with open_tracking_client(uri) as client:
            entries = {f"{entry.name}:{entry.version}": entry for entry in _list_versions(client)}
            if unknown := [name for name in forget if name not in entries]:
                raise VacuumError(
                    f"No registered model is called {', '.join(unknown)}; known are {', '.join(entries) or 'none'}."
                )
            pins = [_read_pin(client, entry, table, opened) for name, entry in entries.items() if name not in forget]
    except ModelError as error:
        raise VacuumError(
            f"{table}: nothing was removed, because the versions that its models need are unknown. {error}"
        ) from error
    existing = [pin for pin in pins if pin and _can_open(opened, pin.delta_version)]
    return sorted(existing, key=lambda pin: (pin.model, pin.version))


def _list_versions(client: Any) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_model_versions(page_token=token)
        # The registry may also have the models of other projects.
        yield from (entry for entry in page if "delta_version" in entry.tags)
        token = page.token
        if not token:
            return


def _read_pin(client: Any, entry: Any, table: str, opened: TableLog) -> Pin | None:
    """Return the pin of a model version, or None if it was trained on another table."""
    from mlflow import MlflowException

    try:
        params = client.get_run(entry.run_id).data.params
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            raise ModelError(
                f"{entry.name} version {entry.version}: its run is gone. Pass --forget {entry.name}:{entry.version} to "
                "ignore the version."
            ) from error
        raise
    trained_on = (params.get("feature_table"), params.get("feature_table_id"))
    if trained_on != (table, str(opened.delta_table.metadata().id)):
        return None
    return Pin(entry.name, int(entry.version), int(params["delta_version"]))


def _can_open(opened: TableLog, version: int) -> bool:
    """Return whether a version can still be opened. The files of a version without a log are useless."""
    try:
        return version <= opened.version and open_log(opened.path, version) is not None
    except LedgerError:
        return False
