"""Lineage: the versions of the inputs behind each version of a table, as OpenLineage events of a run and as a tree.

Events come from the declared graph and the ledger, as Spark's plans lose the inputs of a merge. They are written to a
local file, or sent to the OpenLineage server in the setting `lineage`. A failed event never stops a run.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from rich.markup import escape
from rich.tree import Tree

from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import table_log
from lakehouse.errors import DeclarationError, get_first_line, redact_password
from lakehouse.runs.report import RunListener, TableResult
from lakehouse.storage.s3 import S3Path

if TYPE_CHECKING:
    from pathlib import Path

    from lakehouse.catalog import Catalog
    from lakehouse.deltalog.commit_record import Run
    from lakehouse.settings import Settings
    from lakehouse.storage.location import Location

logger = logging.getLogger(__name__)
NAMESPACE = "lakehouse"
PRODUCER = "https://openlineage.io/lakehouse"
SPEC = "https://openlineage.io/spec"
FILE = "lineage.jsonl"
API_KEY = "OPENLINEAGE_API_KEY"
TIMEOUT_SECONDS = 5.0
_EVENT_TYPES = {
    "written": "COMPLETE",
    "unchanged": "COMPLETE",
    "blocked": "ABORT",
    "skipped": "ABORT",
    "failed": "FAIL",
}


def add_lineage(settings: Settings, catalog: Catalog, run: Run, listener: RunListener | None = None) -> RunListener:
    """Return a listener that sends an event when a table starts or ends, and then calls the given listener."""
    inner, events = listener or RunListener(), _EventSender(settings, catalog, run)

    def on_start(table: str) -> None:
        events.send(table, "START", None)
        inner.on_table_start(table)

    def on_end(result: TableResult) -> None:
        events.send(result.table, _EVENT_TYPES[result.status], result)
        inner.on_table_end(result)

    return RunListener(on_start, on_end)


class _EventSender:
    """Sender of a run's events, until the first failure."""

    def __init__(self, settings: Settings, catalog: Catalog, run: Run) -> None:
        self._settings, self._lake, self._run = settings, catalog, run
        self._emit: Callable[[dict[str, Any]], object] | None = None
        self._has_failed = False

    def send(self, table: str, state: str, result: TableResult | None) -> None:
        if self._has_failed:
            return
        try:
            self._emit = self._emit or _create_emitter(self._settings)
            self._emit(build_event(self._lake, self._run, table, state, result))
        except Exception as error:  # The run continues, whatever a server or a disk does.
            self._has_failed = True
            target = redact_password(self._settings.lineage) or self._settings.logs / FILE
            reason = redact_password(get_first_line(error))
            logger.warning("run %s: no more lineage events are sent to %s: %s", self._run.id, target, reason)


def _create_emitter(settings: Settings) -> Callable[[dict[str, Any]], object]:
    """Return the function that sends an event to the server or, without one, appends it to the file."""
    if not settings.lineage:
        settings.logs.mkdir(parents=True, exist_ok=True)
        return partial(_append, settings.logs / FILE)
    # Slow to import, and needed for a server only.
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    key = os.environ.get(API_KEY)
    options = {"url": settings.lineage, "timeout": TIMEOUT_SECONDS, "retry": {"total": 0}}
    if key:
        options["auth"] = {"type": "api_key", "apiKey": key}
    transport: Any = HttpTransport(HttpConfig.from_dict(options))
    return cast("Callable[[dict[str, Any]], object]", transport.emit)


def _append(file: Path, event: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(event) + "\n")


def build_event(catalog: Catalog, run: Run, table: str, state: str, result: TableResult | None) -> dict[str, Any]:
    """Build the OpenLineage event for the start or end of a table in a run."""
    parent = {"run": {"runId": _make_uuid(run.id)}, "job": {"namespace": NAMESPACE, "name": "run"}}
    facets = {"parent": _build_facet("1-2-0/ParentRunFacet", **parent)}
    if result and result.error:
        facets["errorMessage"] = _build_facet(
            "1-0-1/ErrorMessageRunFacet", message=result.error, programmingLanguage="python"
        )
    return {
        "eventType": state,
        "eventTime": datetime.now(UTC).isoformat(),
        "run": {"runId": _make_uuid(f"{run.id}/{table}"), "facets": facets},
        "job": {"namespace": NAMESPACE, "name": table},
        "inputs": _build_inputs(catalog, table, result),
        "outputs": [_build_output(catalog, table, result)],
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
    }


def _build_facet(schema: str, **fields: Any) -> dict[str, Any]:
    """Build a facet. Its schema is a version and a name in OpenLineage's specification."""
    url = f"{SPEC}/facets/{schema}.json#/$defs/{schema.partition('/')[2]}"
    return {"_producer": PRODUCER, "_schemaURL": url, **fields}


def _make_uuid(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/{text}"))


def _build_inputs(catalog: Catalog, table: str, result: TableResult | None) -> list[dict[str, Any]]:
    declared = catalog.graph.declarations[table]
    if isinstance(declared, Source):
        return [_build_dataset(catalog.get_landing_zone(declared).folder, {})]
    pins = result.step.inputs if result and result.step else {}
    return [
        _build_dataset(catalog.get_path(name), _build_version_facet(pins[name].version) if name in pins else {})
        for name in catalog.graph.list_inputs(table)
    ]


def _build_output(catalog: Catalog, table: str, result: TableResult | None) -> dict[str, Any]:
    fields = [{"name": name, "type": kind} for name, kind in catalog.get_written_columns(table).items()]
    facets = {"schema": _build_facet("1-2-0/SchemaDatasetFacet", fields=fields)}
    output_facets: dict[str, Any] = {}
    if result and result.outcome and result.outcome.is_committed:
        log = table_log.open_log(catalog.get_path(table))
        facets |= _build_version_facet(log.last.version) if log and log.last else {}
        written = result.outcome.rows.get("written", 0)
        output_facets["outputStatistics"] = _build_facet("1-0-2/OutputStatisticsOutputDatasetFacet", rowCount=written)
    return {**_build_dataset(catalog.get_path(table), facets), "outputFacets": output_facets}


def _build_version_facet(number: int) -> dict[str, Any]:
    return {"version": _build_facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=str(number))}


def _build_dataset(path: Location, facets: dict[str, Any]) -> dict[str, Any]:
    """Build a dataset, named by OpenLineage's naming rules (openlineage.io/docs/spec/naming)."""
    namespace, name = (f"s3://{path.bucket}", path.key) if isinstance(path, S3Path) else ("file", str(path))
    return {"namespace": namespace, "name": name, "facets": facets}


# --- the tree, from the ledger ----------------------------------------------------------------------------------------


def build_tree(catalog: Catalog, name: str) -> Tree:
    """Build a tree of a table's inputs and readers, each with the version that was read.

    Raises:
        DeclarationError: there is no such table.
    """
    if name not in catalog.graph.declarations:
        raise DeclarationError(f"{name!r} is not declared. Choose one of {', '.join(catalog.graph.declarations)}.")
    root = Tree(f"[bold]{name}[/] {_describe_version(catalog, name)}")
    _add_inputs(root.add("inputs"), catalog, name)
    readers = [n for n in catalog.graph.declarations if name in catalog.graph.list_inputs(n)]
    branch = root.add("readers")
    for reader in readers:
        branch.add(f"{reader} {_describe_consumed_version(catalog, reader, name)}")
    if not readers:
        branch.add("no table")
    return root


def _add_inputs(branch: Tree, catalog: Catalog, name: str) -> None:
    declared = catalog.graph.declarations[name]
    if isinstance(declared, Source):
        origin = f", from {declared.database.table}" if declared.database else ""
        branch.add(escape(f"landing/{declared.landing}{origin}"))
        return
    assert isinstance(declared, Table)
    for table in dict.fromkeys(i.table for i in declared.inputs.values()):
        roles = {i.role for i in declared.inputs.values() if i.table == table}
        suffix = "" if "incremental" in roles else " (lookup)"
        _add_inputs(branch.add(f"{table} {_describe_consumed_version(catalog, name, table)}{suffix}"), catalog, table)


def _describe_version(catalog: Catalog, name: str) -> str:
    log = table_log.open_log(catalog.get_path(name))
    entry = log.last if log else None
    return f"version {entry.version}, {entry.committed_at:%Y-%m-%d %H:%M} UTC" if entry else "not written yet"


def _describe_consumed_version(catalog: Catalog, reader: str, name: str) -> str:
    record = table_log.read_last_record(catalog.get_path(reader))
    if record is None:
        return "not read yet"
    return f"version {record.inputs[name].version}" if name in record.inputs else "not read yet"
