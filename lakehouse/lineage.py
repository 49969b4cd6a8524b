"""Lineage: which version of which table was made from which, as OpenLineage events while a run works, and drawn from the ledger.

Events come from the declared graph and the ledger, not from Spark's plans, which lose the inputs of a merge. They go to a file of
this machine, or to an OpenLineage server where the setting `lineage` names one. What became of an event never stops a run.
"""

from __future__ import annotations

import logging
import os
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.tree import Tree

from lakehouse import log
from lakehouse.declare import Source, Table
from lakehouse.errors import DeclarationError, first_line, without_password
from lakehouse.run import Result, Watcher
from lakehouse.s3 import S3Path

if TYPE_CHECKING:
    from lakehouse.ledger import Run
    from lakehouse.plan import Lake
    from lakehouse.settings import Settings
    from lakehouse.storage import Location

logger = logging.getLogger(__name__)
NAMESPACE = "lakehouse"
PRODUCER = "https://openlineage.io/lakehouse"
FILE = "lineage.jsonl"
API_KEY = "OPENLINEAGE_API_KEY"
TIMEOUT_SECONDS = 5.0
_ENDS = {"written": "COMPLETE", "unchanged": "COMPLETE", "waits": "ABORT", "skipped": "ABORT", "failed": "FAIL"}


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
        self._client: Any = None
        self._broken = False

    def tell(self, table: str, state: str, result: Result | None) -> None:
        if self._broken:
            return
        try:
            self._client = self._client or _client(self._settings)
            self._client.emit(event(self._lake, self._run, table, state, result))
        except Exception as error:  # whatever a server or a disk does: the run goes on
            self._broken = True
            where = without_password(self._settings.lineage) or self._settings.logs / FILE
            logger.warning("no more lineage of this run goes to %s: %s", where, without_password(first_line(error)))


def _client(settings: Settings) -> Any:
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.file import FileConfig, FileTransport
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    if not settings.lineage:
        settings.logs.mkdir(parents=True, exist_ok=True)
        return OpenLineageClient(transport=FileTransport(FileConfig(str(settings.logs / FILE), append=True)))
    key = os.environ.get(API_KEY)
    options = {"url": settings.lineage, "timeout": TIMEOUT_SECONDS, "retry": {"total": 0}}
    if key:
        options["auth"] = {"type": "api_key", "apiKey": key}
    return OpenLineageClient(transport=HttpTransport(HttpConfig.from_dict(options)))


def event(lake: Lake, run: Run, table: str, state: str, result: Result | None) -> Any:
    """The OpenLineage event of a table that begins or ends in a run."""
    from openlineage.client import event_v2 as events
    from openlineage.client.facet_v2 import error_message_run, parent_run

    facets: dict[str, Any] = {
        "parent": parent_run.ParentRunFacet(
            parent_run.Run(_uuid(run.id)), parent_run.Job(NAMESPACE, "run"), producer=PRODUCER
        )
    }
    if result and result.error:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(result.error, "python", producer=PRODUCER)
    return events.RunEvent(
        eventType=events.RunState[state],
        eventTime=datetime.now(UTC).isoformat(),
        run=events.Run(_uuid(f"{run.id}/{table}"), facets),
        job=events.Job(NAMESPACE, table),
        inputs=[events.InputDataset(*named, facets=versioned) for named, versioned in _inputs(lake, table, result)],
        outputs=[_output(lake, table, result)],
        producer=PRODUCER,
    )


def _uuid(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/{text}"))


def _inputs(lake: Lake, table: str, result: Result | None) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    declared = lake.graph.declared[table]
    if isinstance(declared, Source):
        return [(_place(lake.landing(declared).folder), {})]
    pins = result.step.inputs if result and result.step else {}
    return [
        (_place(lake.path(name)), _version(pins[name].version) if name in pins else {})
        for name in lake.graph.inputs(table)
    ]


def _output(lake: Lake, table: str, result: Result | None) -> Any:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset, schema_dataset

    fields = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in lake.written_columns(table).items()]
    facets: dict[str, Any] = {"schema": schema_dataset.SchemaDatasetFacet(fields, producer=PRODUCER)}
    counted: dict[str, Any] = {}
    if result and result.outcome and result.outcome.committed:
        opened = log.open_log(lake.path(table))
        facets |= _version(opened.last.version) if opened and opened.last else {}
        written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=result.outcome.rows.get("written", 0), producer=PRODUCER
        )
        counted["outputStatistics"] = written
    return OutputDataset(*_place(lake.path(table)), facets=facets, outputFacets=counted)


def _version(number: int) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(str(number), producer=PRODUCER)}


def _place(place: Location) -> tuple[str, str]:
    """A dataset's namespace and name, by OpenLineage's naming rules (openlineage.io/docs/spec/naming)."""
    return (f"s3://{place.bucket}", place.key) if isinstance(place, S3Path) else ("file", str(place))


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
    opened = log.open_log(lake.path(name))
    entry = opened.last if opened else None
    return f"version {entry.version}, {entry.at:%Y-%m-%d %H:%M} UTC" if entry else "not written yet"


def _consumed(lake: Lake, reader: str, name: str) -> str:
    record = log.last_record(lake.path(reader))
    if record is None:
        return "not read yet"
    return f"version {record.inputs[name].version}" if name in record.inputs else "not read yet"
