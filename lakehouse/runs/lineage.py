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
from lakehouse.errors import DeclarationError, first_line, without_password
from lakehouse.runs.scheduler import Result, Watcher
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
_ENDS = {"written": "COMPLETE", "unchanged": "COMPLETE", "blocked": "ABORT", "skipped": "ABORT", "failed": "FAIL"}


def traced(settings: Settings, lake: Lake, run: Run, watcher: Watcher | None = None) -> Watcher:
    """The watcher, which also tells where lineage goes of each table as it begins and ends."""
    watcher, events = watcher or Watcher(), _Events(settings, lake, run)

    def started(table: str) -> None:
        events.tell(table, "START", None)
        watcher.started(table)

    def done(result: Result) -> None:
        events.tell(result.table, _ENDS[result.status], result)
        watcher.done(result)

    return Watcher(started, done)


class _Events:
    """Sends a run's events, until one cannot be sent."""

    def __init__(self, settings: Settings, lake: Lake, run: Run) -> None:
        self._settings, self._lake, self._run = settings, lake, run
        self._emit: Callable[[dict[str, Any]], object] | None = None
        self._broken = False

    def tell(self, table: str, state: str, result: Result | None) -> None:
        if self._broken:
            return
        try:
            self._emit = self._emit or _emitter(self._settings)
            self._emit(event(self._lake, self._run, table, state, result))
        except Exception as error:  # whatever a server or a disk does: the run goes on
            self._broken = True
            where = without_password(self._settings.lineage) or self._settings.logs / FILE
            logger.warning("no more lineage of this run goes to %s: %s", where, without_password(first_line(error)))


def _emitter(settings: Settings) -> Callable[[dict[str, Any]], object]:
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


def event(lake: Lake, run: Run, table: str, state: str, result: Result | None) -> dict[str, Any]:
    """The OpenLineage event of a table that begins or ends in a run."""
    parent = {"run": {"runId": _uuid(run.id)}, "job": {"namespace": NAMESPACE, "name": "run"}}
    facets = {"parent": _facet("1-2-0/ParentRunFacet", **parent)}
    if result and result.error:
        facets["errorMessage"] = _facet(
            "1-0-1/ErrorMessageRunFacet", message=result.error, programmingLanguage="python"
        )
    return {
        "eventType": state,
        "eventTime": datetime.now(UTC).isoformat(),
        "run": {"runId": _uuid(f"{run.id}/{table}"), "facets": facets},
        "job": {"namespace": NAMESPACE, "name": table},
        "inputs": _inputs(lake, table, result),
        "outputs": [_output(lake, table, result)],
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
    }


def _facet(schema: str, **fields: Any) -> dict[str, Any]:
    """A facet by its version and name, as OpenLineage's specification has them."""
    url = f"{SPEC}/facets/{schema}.json#/$defs/{schema.partition('/')[2]}"
    return {"_producer": PRODUCER, "_schemaURL": url, **fields}


def _uuid(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/{text}"))


def _inputs(lake: Lake, table: str, result: Result | None) -> list[dict[str, Any]]:
    declared = lake.graph.declared[table]
    if isinstance(declared, Source):
        return [_dataset(lake.landing(declared).folder, {})]
    pins = result.step.inputs if result and result.step else {}
    return [
        _dataset(lake.path(name), _version(pins[name].version) if name in pins else {})
        for name in lake.graph.inputs(table)
    ]


def _output(lake: Lake, table: str, result: Result | None) -> dict[str, Any]:
    fields = [{"name": name, "type": kind} for name, kind in lake.written_columns(table).items()]
    facets = {"schema": _facet("1-2-0/SchemaDatasetFacet", fields=fields)}
    counted: dict[str, Any] = {}
    if result and result.outcome and result.outcome.committed:
        opened = table_log.open_log(lake.path(table))
        facets |= _version(opened.last.version) if opened and opened.last else {}
        written = result.outcome.rows.get("written", 0)
        counted["outputStatistics"] = _facet("1-0-2/OutputStatisticsOutputDatasetFacet", rowCount=written)
    return {**_dataset(lake.path(table), facets), "outputFacets": counted}


def _version(number: int) -> dict[str, Any]:
    return {"version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=str(number))}


def _dataset(place: Location, facets: dict[str, Any]) -> dict[str, Any]:
    """A dataset with its namespace and name, by OpenLineage's naming rules (openlineage.io/docs/spec/naming)."""
    namespace, name = (f"s3://{place.bucket}", place.key) if isinstance(place, S3Path) else ("file", str(place))
    return {"namespace": namespace, "name": name, "facets": facets}


# --- drawn from the ledger ------------------------------------------------------------------------------------------


def tree(lake: Lake, name: str) -> Tree:
    """What a table was made from, each with the version that it consumed, and below it the tables that read it.

    Raises:
        DeclarationError: there is no such table.
    """
    if name not in lake.graph.declared:
        raise DeclarationError(f"{name!r} is not declared; known are {', '.join(lake.graph.declared)}.")
    root = Tree(f"[bold]{name}[/] {_stands(lake, name)}")
    _grow(root.add("made from"), lake, name)
    readers = [n for n in lake.graph.declared if name in lake.graph.inputs(n)]
    branch = root.add("read by")
    for reader in readers:
        branch.add(f"{reader} {_consumed(lake, reader, name)}")
    if not readers:
        branch.add("no table")
    return root


def _grow(branch: Tree, lake: Lake, name: str) -> None:
    declared = lake.graph.declared[name]
    if isinstance(declared, Source):
        branch.add(f"landing/{declared.landing}" + (f", from {declared.database.table}" if declared.database else ""))
        return
    assert isinstance(declared, Table)
    for one in dict.fromkeys(i.table for i in declared.inputs.values()):
        roles = {i.role for i in declared.inputs.values() if i.table == one}
        looked_up = "" if "driver" in roles else " (looked up)"
        _grow(branch.add(f"{one} {_consumed(lake, name, one)}{looked_up}"), lake, one)


def _stands(lake: Lake, name: str) -> str:
    opened = table_log.open_log(lake.path(name))
    entry = opened.last if opened else None
    return f"version {entry.version}, {entry.at:%Y-%m-%d %H:%M} UTC" if entry else "not written yet"


def _consumed(lake: Lake, reader: str, name: str) -> str:
    record = table_log.last_record(lake.path(reader))
    if record is None:
        return "not read yet"
    return f"version {record.inputs[name].version}" if name in record.inputs else "not read yet"
