"""Lineage: which version of which table was made from which, as OpenLineage events while a run works, and drawn from the ledger.

Events come from the declared graph and the ledger, not from Spark's plans, which lose the inputs of a merge. They go to a file of
this machine, or to an OpenLineage server where the setting `lineage` names one. What became of an event never stops a run.
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

from rich.tree import Tree

from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import table_log
from lakehouse.errors import DeclarationError, get_first_line, redact_password
from lakehouse.runs.scheduler import RunListener, TableResult
from lakehouse.storage.s3 import S3Path

if TYPE_CHECKING:
    from pathlib import Path

    from lakehouse.catalog import Lake
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


def add_lineage(settings: Settings, lake: Lake, run: Run, listener: RunListener | None = None) -> RunListener:
    """The watcher, which also tells where lineage goes of each table as it begins and ends."""
    listener, events = listener or RunListener(), _EventSender(settings, lake, run)

    def started(table: str) -> None:
        events.send(table, "START", None)
        listener.on_table_start(table)

    def done(result: TableResult) -> None:
        events.send(result.table, _EVENT_TYPES[result.status], result)
        listener.on_table_end(result)

    return RunListener(started, done)


class _EventSender:
    """Sends a run's events, until one cannot be sent."""

    def __init__(self, settings: Settings, lake: Lake, run: Run) -> None:
        self._settings, self._lake, self._run = settings, lake, run
        self._emit: Callable[[dict[str, Any]], object] | None = None
        self._has_failed = False

    def send(self, table: str, state: str, result: TableResult | None) -> None:
        if self._has_failed:
            return
        try:
            self._emit = self._emit or _create_emitter(self._settings)
            self._emit(build_event(self._lake, self._run, table, state, result))
        except Exception as error:  # whatever a server or a disk does: the run goes on
            self._has_failed = True
            where = redact_password(self._settings.lineage) or self._settings.logs / FILE
            logger.warning("no more lineage of this run goes to %s: %s", where, redact_password(get_first_line(error)))


def _create_emitter(settings: Settings) -> Callable[[dict[str, Any]], object]:
    """Return the function that sends an event to the server or, without one, appends it to the file."""
    if not settings.lineage:
        settings.logs.mkdir(parents=True, exist_ok=True)
        return partial(_append, settings.logs / FILE)
    # Slow to import, and only a server needs it.
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


def build_event(lake: Lake, run: Run, table: str, state: str, result: TableResult | None) -> dict[str, Any]:
    """The OpenLineage event of a table that begins or ends in a run."""
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
        "inputs": _build_inputs(lake, table, result),
        "outputs": [_build_output(lake, table, result)],
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
    }


def _build_facet(schema: str, **fields: Any) -> dict[str, Any]:
    """A facet by its version and name, as OpenLineage's specification has them."""
    url = f"{SPEC}/facets/{schema}.json#/$defs/{schema.partition('/')[2]}"
    return {"_producer": PRODUCER, "_schemaURL": url, **fields}


def _make_uuid(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/{text}"))


def _build_inputs(lake: Lake, table: str, result: TableResult | None) -> list[dict[str, Any]]:
    declared = lake.graph.declarations[table]
    if isinstance(declared, Source):
        return [_build_dataset(lake.landing_zone(declared).folder, {})]
    pins = result.step.inputs if result and result.step else {}
    return [
        _build_dataset(lake.path(name), _build_version_facet(pins[name].version) if name in pins else {})
        for name in lake.graph.inputs(table)
    ]


def _build_output(lake: Lake, table: str, result: TableResult | None) -> dict[str, Any]:
    fields = [{"name": name, "type": kind} for name, kind in lake.written_columns(table).items()]
    facets = {"schema": _build_facet("1-2-0/SchemaDatasetFacet", fields=fields)}
    counted: dict[str, Any] = {}
    if result and result.outcome and result.outcome.is_committed:
        opened = table_log.open_log(lake.path(table))
        facets |= _build_version_facet(opened.last.version) if opened and opened.last else {}
        written = result.outcome.rows.get("written", 0)
        counted["outputStatistics"] = _build_facet("1-0-2/OutputStatisticsOutputDatasetFacet", rowCount=written)
    return {**_build_dataset(lake.path(table), facets), "outputFacets": counted}


def _build_version_facet(number: int) -> dict[str, Any]:
    return {"version": _build_facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=str(number))}


def _build_dataset(place: Location, facets: dict[str, Any]) -> dict[str, Any]:
    """A dataset with its namespace and name, by OpenLineage's naming rules (openlineage.io/docs/spec/naming)."""
    namespace, name = (f"s3://{place.bucket}", place.key) if isinstance(place, S3Path) else ("file", str(place))
    return {"namespace": namespace, "name": name, "facets": facets}


# --- drawn from the ledger ------------------------------------------------------------------------------------------


def build_tree(lake: Lake, name: str) -> Tree:
    """What a table was made from, each with the version that it consumed, and below it the tables that read it.

    Raises:
        DeclarationError: there is no such table.
    """
    if name not in lake.graph.declarations:
        raise DeclarationError(f"{name!r} is not declared; known are {', '.join(lake.graph.declarations)}.")
    root = Tree(f"[bold]{name}[/] {_describe_version(lake, name)}")
    _add_inputs(root.add("made from"), lake, name)
    readers = [n for n in lake.graph.declarations if name in lake.graph.inputs(n)]
    branch = root.add("read by")
    for reader in readers:
        branch.add(f"{reader} {_describe_consumed_version(lake, reader, name)}")
    if not readers:
        branch.add("no table")
    return root


def _add_inputs(branch: Tree, lake: Lake, name: str) -> None:
    declared = lake.graph.declarations[name]
    if isinstance(declared, Source):
        branch.add(f"landing/{declared.landing}" + (f", from {declared.database.table}" if declared.database else ""))
        return
    assert isinstance(declared, Table)
    for one in dict.fromkeys(i.table for i in declared.inputs.values()):
        roles = {i.role for i in declared.inputs.values() if i.table == one}
        looked_up = "" if "incremental" in roles else " (looked up)"
        _add_inputs(branch.add(f"{one} {_describe_consumed_version(lake, name, one)}{looked_up}"), lake, one)


def _describe_version(lake: Lake, name: str) -> str:
    opened = table_log.open_log(lake.path(name))
    entry = opened.last if opened else None
    return f"version {entry.version}, {entry.committed_at:%Y-%m-%d %H:%M} UTC" if entry else "not written yet"


def _describe_consumed_version(lake: Lake, reader: str, name: str) -> str:
    record = table_log.read_last_record(lake.path(reader))
    if record is None:
        return "not read yet"
    return f"version {record.inputs[name].version}" if name in record.inputs else "not read yet"
