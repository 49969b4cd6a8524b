"""What the next run would do to each table, and why, from logs and manifests alone: no Spark."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from lakehouse.definitions.fingerprint import definition_of, names_column
from lakehouse.definitions.partitions import spans, touched
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import Declared, Table
from lakehouse.definitions.write_modes import Append, History, Rebuild, Replace
from lakehouse.deltalog.commit_record import Consumed, Record
from lakehouse.deltalog.table_log import TableLog, standing_now, taken_back
from lakehouse.errors import LedgerError
from lakehouse.landing import conformance
from lakehouse.plan import schema_diff
from lakehouse.plan.backfill import asked_for, done_before
from lakehouse.plan.schema_diff import Changes
from lakehouse.plan.steps import Step

if TYPE_CHECKING:
    from lakehouse.catalog import Lake
    from lakehouse.plan.steps import Action, Request

FEED_GONE = "the change feed no longer reaches back so far"


def plan(lake: Lake, names: Iterable[str], request: Request) -> list[Step]:
    """The steps of the next run, in order; a table whose inputs would change is planned ``after`` them."""
    steps: dict[str, Step] = {}
    lake = lake.still()
    for name in names:
        step = _looked_into(lake, decide(lake, name, request))
        pending = tuple(
            i for i in lake.graph.inputs(name) if (i in steps and steps[i].works) or (i in steps and steps[i].after)
        )
        if pending and _touched_by(lake, name, pending):
            step = _behind(lake, step, [steps[i] for i in pending])
        steps[name] = step
    return list(steps.values())


def _looked_into(lake: Lake, step: Step) -> Step:
    """The step of a source with the rows of its files, where they say so, and their columns: only who plans has them opened for that."""
    declared = lake.graph.declared[step.table]
    if not isinstance(declared, Source) or not step.files:
        return step
    landing = lake.landing(declared)
    said, changed = conformance.foreseen(declared, landing.at_first_sight(step.files))
    changed = tuple(dict.fromkeys((*step.columns_changed, *changed)))
    return replace(step, rows=landing.rows(step.files), drift=said, columns_changed=changed)


def _touched_by(lake: Lake, name: str, inputs: Collection[str]) -> bool:
    """Whether the run will write the table once these inputs have changed."""
    table = lake.graph.declared[name]
    assert isinstance(table, Table)
    without_data = {one.table for one in table.inputs.values() if lake.log(one.table) is None}
    if without_data:
        return without_data <= set(inputs)
    return any(
        one.table in inputs and (one.role == "driver" or one.on_change == "everything" or lake.log(name) is None)
        for one in table.inputs.values()
    )


def _behind(lake: Lake, step: Step, before: list[Step]) -> Step:
    """The step as far as it can be told before its inputs have changed."""
    table = lake.graph.declared[step.table]
    assert isinstance(table, Table)
    inputs = tuple(one.table for one in before)
    anew = {one.table for one in before if one.action == "build" or one.full_refresh}
    reasons = tuple(f"{name} will {'be made anew' if name in anew else 'change'}" for name in inputs)
    everything = {i.table for i in table.inputs.values() if i.role == "lookup" and i.on_change == "everything"}
    drivers = {one.table for one in table.drivers.values()}
    whole = isinstance(table.write, Rebuild) or everything & set(inputs) or drivers & anew
    action: Action = "build" if whole or step.action in ("waits", "build") else "update"
    kept = step.reasons if step.works else ()
    rows = None if step.action in ("none", "waits") else step.rows
    return replace(step, action=action, reasons=(*reasons, *kept), after=inputs, rows=rows)


def decide(lake: Lake, name: str, request: Request) -> Step:
    """What to do to one table, given what is committed now.

    Raises:
        LedgerError: a log is damaged.
        LandingError: a manifest is damaged.
    """
    declared = lake.graph.declared[name]
    table_log = lake.log(name)
    last = table_log.last if table_log else None
    record = last.record if last else None
    full = name in request.full_refresh
    if isinstance(declared, Source):
        step = _decide_source(lake, declared, record, full)
    else:
        step = _decide_table(lake, declared, record, full, request)
    changes = schema_diff.changes(lake.written_columns(name), table_log.columns(), declared) if table_log else Changes()
    if changes.widened and not changes.broken and not full and record is not None and _can_be_made_anew(lake, declared):
        again = decide(lake, name, replace(request, full_refresh=request.full_refresh | {name}))
        return replace(again, reasons=("a column's type is widened",))
    return replace(
        step,
        schema_changes=changes.said(),
        added_columns=changes.added,
        columns_changed=changes.columns,
        breaking=bool(changes.broken or changes.widened) and not (full or step.full_refresh),
        code_changed=record is not None and record.definition != definition_of(declared),
    )


def _can_be_made_anew(lake: Lake, declared: Declared) -> bool:
    """Whether making it anew, and so its readers, loses nothing: a table that appends what another one held may have more than that has
    now. A source checks its files."""
    tables = (lake.graph.declared[name] for name in (declared.name, *lake.graph.downstream(declared.name)))
    return not any(
        isinstance(one, Table)
        and isinstance(one.write, Append)
        and lake.landed_driver(one) is None
        and lake.log(one.name) is not None
        for one in tables
    )


def _decide_source(lake: Lake, source: Source, record: Record | None, full: bool) -> Step:
    landing = lake.landing(source)
    history = landing.without(record.undone if record else ())
    committed = record.batch if record else 0
    generation = (record.generation if record else 1) + (1 if full and record else 0)
    # The oldest: a copy of the lake that was taken while runs worked may have manifests of several.
    unfinished = next((one for one in history if one.batch > committed and one.files), None)
    batch = max([committed, *(m.batch for m in history)]) + 1
    if unfinished and not full:
        manifest = unfinished
        generation += 1 if manifest.full and record else 0
        return Step(
            source.name, "ingest", (f"batch {manifest.batch} was left unfinished",), batch=manifest.batch, generation=generation,
            manifest=manifest, files=manifest.files, rows=None, bytes=sum(f.size for f in manifest.files), full_refresh=manifest.full,
        )  # fmt: skip
    files = landing.listed() if full else landing.pending(history, definition_of(source))
    if not files and not (full and record):
        rejected = len(landing.rejected(history))
        said = "no new files" + (f"; {rejected} rejected" if rejected else "")
        return Step(source.name, "none", (said + ("; the run asks its database" if source.database else ""),))
    reason = "full refresh" if full else f"{len(files)} new file{'s' if len(files) > 1 else ''}"
    return Step(
        source.name, "ingest", (reason,), batch=batch, generation=generation, files=tuple(files), rows=None,
        bytes=sum(f.size for f in files), full_refresh=full,
    )  # fmt: skip


def _decide_table(lake: Lake, table: Table, record: Record | None, full: bool, request: Request) -> Step:
    logs = {name: lake.log(name) for name in lake.graph.inputs(table.name)}
    entries = {name: one.last if one else None for name, one in logs.items()}
    waiting = [name for name, entry in entries.items() if entry is None]
    if waiting:
        return Step(table.name, "waits", (f"{', '.join(waiting)} has no data yet",))
    pins = {n: Consumed(e.version, e.record.generation) for n, e in entries.items() if e and e.record}
    batch = record.batch + 1 if record else 1
    if record is None or full:
        generation = record.generation + 1 if record else 1
        reason = "full refresh" if record else "no table yet"
        step = Step(table.name, "build", (reason,), pins, {}, batch, generation, full and record is not None)
        return _sized(table, logs, step)
    record = replace(record, inputs={name: standing_now(logs.get(name), one) for name, one in record.inputs.items()})
    return _sized(table, logs, _decide_change(lake, table, record, pins, batch, request, logs))


def _decide_change(
    lake: Lake, table: Table, record: Record, pins: Mapping[str, Consumed], batch: int, request: Request,
    logs: Mapping[str, TableLog | None],
) -> Step:  # fmt: skip
    reasons, whole = [], []
    for one in table.inputs.values():
        before, after, opened = record.inputs.get(one.table), pins[one.table], logs[one.table]
        if before is None:
            whole.append(f"{one.table} is a new input")
        elif opened and before.generation != after.generation and taken_back(opened.entries(), before.version):
            whole.append(f"a run of which this holds rows was taken back from {one.table}")
        elif before.generation != after.generation and (one.role == "driver" or one.on_change == "everything"):
            whole.append(f"{one.table} was made anew")
        elif before.version != after.version and one.role == "lookup" and one.on_change == "everything":
            whole.append(f"{one.table} changed and affects everything")
        elif before.version != after.version and one.role == "driver":
            reasons.append(f"{one.table} {before.version} to {after.version}")
    asked = asked_for(table, request.since, request.until)
    step = Step(table.name, "update", tuple(whole or reasons), pins, _versions(record), batch, record.generation)
    if whole or (reasons and isinstance(table.write, Rebuild)):
        return replace(step, action="build", generation=record.generation + 1)
    if not reasons and not asked:
        return Step(
            table.name, "none", ("its inputs have not changed",), pins, _versions(record), batch, record.generation
        )
    if isinstance(table.write, Replace):
        return _decide_partitions(lake, table, step, logs, asked)
    return _checked_feed(lake, table, step, logs)


def _decide_partitions(
    lake: Lake, table: Table, step: Step, logs: Mapping[str, TableLog | None], asked: set[date]
) -> Step:
    own = lake.log(table.name)
    assert isinstance(table.write, Replace)
    assert own is not None
    done = done_before(table, own, asked, step.inputs) if asked else set()
    asked = asked - done
    partitions: set[date] = set()
    # A row that was only landed once more is as it was, for who does not read where it came from.
    unread = [c for c in ORIGIN_COLUMNS if not names_column(table, c)]
    try:
        for one in table.drivers.values():
            opened = logs[one.table]
            assert one.by is not None and opened is not None
            days = opened.differing_values(one.by, step.since[one.table], step.inputs[one.table].version, unread)
            partitions |= touched(days, one.reach_days, table.write)
    except LedgerError:
        reasons = (*step.reasons, FEED_GONE)
        return replace(step, action="build", generation=step.generation + 1, reasons=reasons)
    reasons = (*step.reasons, "asked for by date") if asked else step.reasons
    if done:
        reasons = (*reasons, f"{len(done)} partition{'s' if len(done) > 1 else ''} asked for by date done already")
    if not partitions and not asked:
        return replace(step, action="none", reasons=reasons if done else (*reasons, "no partition touched"))
    only_asked = tuple(sorted(asked - partitions))
    return replace(step, partitions=tuple(sorted(partitions | asked)), asked=only_asked, reasons=reasons)


def _checked_feed(lake: Lake, table: Table, step: Step, logs: Mapping[str, TableLog | None]) -> Step:
    """The step, or a build where the changes that it needs can no longer be read."""
    try:
        for one in table.drivers.values():
            opened, column = logs[one.table], next(iter(lake.graph.declared[one.table].columns))
            if opened is not None and not isinstance(table.write, History):
                opened.changed_values(column, step.since[one.table], step.inputs[one.table].version)
    except LedgerError:
        reasons = (*step.reasons, FEED_GONE)
        return replace(step, action="build", generation=step.generation + 1, reasons=reasons)
    return step


def _versions(record: Record) -> dict[str, int]:
    return {name: one.version for name, one in record.inputs.items()}


def _sized(table: Table, logs: Mapping[str, TableLog | None], step: Step) -> Step:
    """The step with the rows and bytes that it would read, by Delta's own counts.

    Of a driver these are its changed rows, or the files that hold the partitions to replace and the days before them; of
    everything else the whole.
    """
    if not step.works:
        return step
    read = []
    for one in table.inputs.values():
        opened = logs[one.table]
        assert opened is not None
        if step.action == "build" or one.role == "lookup" or isinstance(table.write, History):
            read.append(opened.size())
        elif isinstance(table.write, Replace) and one.by is not None:
            days = [
                (first - timedelta(one.context_days), last) for first, last in spans(step.partitions or (), table.write)
            ]
            read.append(opened.size(one.by, days))
        else:
            read.append(opened.changed_size(step.since[one.table]))
    return replace(step, rows=sum(rows for rows, _ in read), bytes=sum(size for _, size in read))
