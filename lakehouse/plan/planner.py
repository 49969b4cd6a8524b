"""What the next run would do to each table, and why, from logs and manifests alone: no Spark."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from lakehouse.definitions.fingerprint import can_read_column, compute_fingerprint
from lakehouse.definitions.partitions import find_affected_partitions, merge_into_ranges
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.deltalog.commit_record import InputVersion, Record
from lakehouse.deltalog.table_log import TableLog, is_rolled_back, resolve_current_version
from lakehouse.errors import LedgerError
from lakehouse.landing import conformance
from lakehouse.plan import schema_diff
from lakehouse.plan.backfill import find_completed_backfill, select_backfill_partitions
from lakehouse.plan.schema_diff import SchemaChanges
from lakehouse.plan.steps import Blocked, Build, Idle, Ingest, Step, Update, UpdatePartitions, WriteStep

if TYPE_CHECKING:
    from lakehouse.catalog import Lake
    from lakehouse.plan.steps import Request

S = TypeVar("S", bound=Step)
FEED_EXPIRED = "the change feed no longer reaches back so far"


def plan_steps(lake: Lake, names: Iterable[str], request: Request) -> list[Step]:
    """The steps of the next run, in order; a table whose inputs would change is planned ``after`` them."""
    steps: dict[str, Step] = {}
    lake = lake.cache_logs()
    for name in names:
        step = _preview_files(lake, decide_step(lake, name, request))
        pending = tuple(
            i for i in lake.graph.inputs(name) if (i in steps and (steps[i].has_work or steps[i].pending_inputs))
        )
        if pending and _is_affected_by(lake, name, pending):
            step = _defer(lake, step, [steps[i] for i in pending])
        steps[name] = step
    return list(steps.values())


def _preview_files(lake: Lake, step: Step) -> Step:
    """The step of a source with the rows of its files, where they say so, and their columns: only who plans has them opened for that."""
    declared = lake.graph.declarations[step.table]
    if not isinstance(declared, Source) or not isinstance(step, Ingest) or not step.files:
        return step
    landing = lake.landing_zone(declared)
    said, changed = conformance.preview_drift(declared, landing.preview_files(step.files))
    changed = tuple(dict.fromkeys((*step.changed_columns, *changed)))
    return replace(step, rows=landing.count_rows(step.files), drift=said, changed_columns=changed)


def _is_affected_by(lake: Lake, name: str, inputs: Collection[str]) -> bool:
    """Whether the run will write the table once these inputs have changed."""
    table = lake.graph.declarations[name]
    assert isinstance(table, Table)
    without_data = {one.table for one in table.inputs.values() if lake.log(one.table) is None}
    if without_data:
        return without_data <= set(inputs)
    return any(
        one.table in inputs and (one.role == "incremental" or one.on_change == "rebuild" or lake.log(name) is None)
        for one in table.inputs.values()
    )


def _defer(lake: Lake, step: Step, input_steps: list[Step]) -> Step:
    """The step as far as it can be told before its inputs have changed."""
    table = lake.graph.declarations[step.table]
    assert isinstance(table, Table)
    inputs = tuple(one.table for one in input_steps)
    anew = {
        one.table
        for one in input_steps
        if isinstance(one, Build) or (isinstance(one, WriteStep) and one.is_full_refresh)
    }
    reasons = tuple(f"{name} will {'be made anew' if name in anew else 'change'}" for name in inputs)
    everything = {i.table for i in table.inputs.values() if i.role == "lookup" and i.on_change == "rebuild"}
    drivers = {one.table for one in table.incremental_inputs.values()}
    whole = table.write.is_rebuilt or everything & set(inputs) or drivers & anew
    reasons = (*reasons, *step.reasons) if step.has_work else reasons
    if isinstance(step, Build) or (isinstance(step, Update) and not whole):
        return replace(step, reasons=reasons, pending_inputs=inputs)
    rows = step.rows if isinstance(step, WriteStep) else None
    kind = Build if whole or isinstance(step, Blocked) else Update
    return _convert_step(kind, step, reasons=reasons, pending_inputs=inputs, rows=rows)


def decide_step(lake: Lake, name: str, request: Request) -> Step:
    """What to do to one table, given what is committed now.

    Raises:
        LedgerError: a log is damaged.
        LandingError: a manifest is damaged.
    """
    declared = lake.graph.declarations[name]
    table_log = lake.log(name)
    last = table_log.last if table_log else None
    record = last.record if last else None
    full = name in request.full_refresh
    if isinstance(declared, Source):
        step = _decide_source(lake, declared, record, full)
    else:
        step = _decide_table(lake, declared, record, full, request)
    changes = (
        schema_diff.compare_schemas(lake.written_columns(name), table_log.columns(), declared)
        if table_log
        else SchemaChanges()
    )
    if changes.widenings and not changes.conflicts and not full and record is not None and _can_rebuild(lake, declared):
        again = decide_step(lake, name, replace(request, full_refresh=request.full_refresh | {name}))
        return replace(again, reasons=("a column's type is widened",))
    refreshed = full or (isinstance(step, WriteStep) and step.is_full_refresh)
    return replace(
        step,
        schema_changes=changes,
        changed_columns=changes.affected_columns,
        is_breaking=bool(changes.conflicts or changes.widenings) and not refreshed,
        is_code_changed=record is not None and record.fingerprint != compute_fingerprint(declared),
    )


def _can_rebuild(lake: Lake, declared: Declaration) -> bool:
    """Whether making it anew, and so its readers, loses nothing: a table that appends what another one held may have more than that has
    now. A source checks its files."""
    tables = (lake.graph.declarations[name] for name in (declared.name, *lake.graph.downstream(declared.name)))
    return not any(
        isinstance(one, Table)
        and one.write.is_append_only
        and lake.get_landed_source(one) is None
        and lake.log(one.name) is not None
        for one in tables
    )


def _decide_source(lake: Lake, source: Source, record: Record | None, full: bool) -> Step:
    landing = lake.landing_zone(source)
    history = landing.read_history_without(record.rolled_back_batches if record else ())
    committed = record.batch if record else 0
    generation = (record.generation if record else 1) + (1 if full and record else 0)
    # The oldest: a copy of the lake that was taken while runs worked may have manifests of several.
    unfinished = next((one for one in history if one.batch > committed and one.files), None)
    batch = max([committed, *(m.batch for m in history)]) + 1
    if unfinished and not full:
        manifest = unfinished
        generation += 1 if manifest.is_full and record else 0
        return Ingest(
            table=source.name,
            reasons=(f"batch {manifest.batch} was left unfinished",),
            batch=manifest.batch,
            generation=generation,
            manifest=manifest,
            files=manifest.files,
            rows=None,
            bytes=sum(file.size for file in manifest.files),
            is_full_refresh=manifest.is_full,
        )
    files = landing.list_files() if full else landing.find_new_files(history, compute_fingerprint(source))
    if not files and not (full and record):
        rejected = len(landing.find_rejected_files(history))
        said = "no new files" + (f"; {rejected} rejected" if rejected else "")
        return Idle(table=source.name, reasons=(said + ("; the run asks its database" if source.database else ""),))
    reason = "full refresh" if full else f"{len(files)} new file{'s' if len(files) > 1 else ''}"
    return Ingest(
        table=source.name,
        reasons=(reason,),
        batch=batch,
        generation=generation,
        files=tuple(files),
        rows=None,
        bytes=sum(file.size for file in files),
        is_full_refresh=full,
    )


def _decide_table(lake: Lake, table: Table, record: Record | None, full: bool, request: Request) -> Step:
    logs = {name: lake.log(name) for name in lake.graph.inputs(table.name)}
    entries = {name: one.last if one else None for name, one in logs.items()}
    waiting = [name for name, entry in entries.items() if entry is None]
    if waiting:
        return Blocked(table=table.name, reasons=(f"{', '.join(waiting)} has no data yet",))
    pins = {n: InputVersion(e.version, e.record.generation) for n, e in entries.items() if e and e.record}
    batch = record.batch + 1 if record else 1
    if record is None or full:
        generation = record.generation + 1 if record else 1
        reason = "full refresh" if record else "no table yet"
        refresh = full and record is not None
        step = Build(
            table=table.name,
            reasons=(reason,),
            inputs=pins,
            batch=batch,
            generation=generation,
            is_full_refresh=refresh,
        )
        return _add_size(table, logs, step)
    record = replace(
        record, inputs={name: resolve_current_version(logs.get(name), one) for name, one in record.inputs.items()}
    )
    return _add_size(table, logs, _decide_change(lake, table, record, pins, batch, request, logs))


def _decide_change(
    lake: Lake, table: Table, record: Record, pins: Mapping[str, InputVersion], batch: int, request: Request,
    logs: Mapping[str, TableLog | None],
) -> Step:  # fmt: skip
    reasons, whole = [], []
    for one in table.inputs.values():
        before, after, opened = record.inputs.get(one.table), pins[one.table], logs[one.table]
        if before is None:
            whole.append(f"{one.table} is a new input")
        elif opened and before.generation != after.generation and is_rolled_back(opened.entries(), before.version):
            whole.append(f"a run of which this holds rows was taken back from {one.table}")
        elif before.generation != after.generation and (one.role == "incremental" or one.on_change == "rebuild"):
            whole.append(f"{one.table} was made anew")
        elif before.version != after.version and one.role == "lookup" and one.on_change == "rebuild":
            whole.append(f"{one.table} changed and affects everything")
        elif before.version != after.version and one.role == "incremental":
            reasons.append(f"{one.table} {before.version} to {after.version}")
    asked = select_backfill_partitions(table, request.since, request.until)
    step = Update(
        table=table.name,
        reasons=tuple(whole or reasons),
        inputs=pins,
        previous_versions={name: one.version for name, one in record.inputs.items()},
        batch=batch,
        generation=record.generation,
    )
    if whole or (reasons and table.write.is_rebuilt):
        return _convert_step(Build, step, generation=record.generation + 1)
    if not reasons and not asked:
        return _convert_step(Idle, step, reasons=("its inputs have not changed",))
    if table.partitioning:
        return _decide_partitions(lake, table, step, logs, asked)
    return _check_feed(lake, table, step, logs)


def _decide_partitions(
    lake: Lake, table: Table, step: Update, logs: Mapping[str, TableLog | None], requested: set[date]
) -> Step:
    own, write = lake.log(table.name), table.partitioning
    assert own is not None and write is not None
    done = find_completed_backfill(table, own, requested, step.inputs) if requested else set()
    requested = requested - done
    partitions: set[date] = set()
    # A row that was only landed once more is as it was, for who does not read where it came from.
    unread = [c for c in ORIGIN_COLUMNS if not can_read_column(table, c)]
    try:
        for one in table.incremental_inputs.values():
            opened = logs[one.table]
            assert one.date_column is not None and opened is not None
            days = opened.read_net_changed_values(
                one.date_column, step.previous_versions[one.table], step.inputs[one.table].version, unread
            )
            partitions |= find_affected_partitions(days, one.affects_days, write)
    except LedgerError:
        return _fall_back_to_rebuild(step)
    reasons = (*step.reasons, "asked for by date") if requested else step.reasons
    if done:
        reasons = (*reasons, f"{len(done)} partition{'s' if len(done) > 1 else ''} asked for by date done already")
    if not partitions and not requested:
        return _convert_step(Idle, step, reasons=reasons if done else (*reasons, "no partition touched"))
    backfilled = tuple(sorted(requested - partitions))
    partitions |= requested
    return _convert_step(
        UpdatePartitions, step, partitions=tuple(sorted(partitions)), backfilled=backfilled, reasons=reasons
    )


def _check_feed(lake: Lake, table: Table, step: Update, logs: Mapping[str, TableLog | None]) -> Step:
    """The step, or a build where the changes that it needs can no longer be read."""
    try:
        for one in table.incremental_inputs.values():
            opened, column = logs[one.table], next(iter(lake.graph.declarations[one.table].columns))
            if opened is not None and not table.write.reads_all_rows:
                opened.read_changed_values(column, step.previous_versions[one.table], step.inputs[one.table].version)
    except LedgerError:
        return _fall_back_to_rebuild(step)
    return step


def _fall_back_to_rebuild(step: Update) -> Build:
    return _convert_step(Build, step, generation=step.generation + 1, reasons=(*step.reasons, FEED_EXPIRED))


def _convert_step(kind: type[S], step: Step, **changes: Any) -> S:
    """Return a step of another kind with the fields that both have, less those that change."""
    names = {field.name for field in fields(kind)} & {field.name for field in fields(step)}
    return kind(**{name: getattr(step, name) for name in names} | changes)


def _add_size(table: Table, logs: Mapping[str, TableLog | None], step: Step) -> Step:
    """The step with the rows and bytes that it would read, by Delta's own counts.

    Of a driver these are its changed rows, or the files that hold the partitions to replace and the days before them; of
    everything else the whole.
    """
    if not isinstance(step, WriteStep):
        return step
    read = []
    for one in table.inputs.values():
        opened = logs[one.table]
        assert opened is not None
        if isinstance(step, Build) or one.role == "lookup" or table.write.reads_all_rows:
            read.append(opened.measure())
        elif isinstance(step, UpdatePartitions) and table.partitioning and one.date_column is not None:
            days = [
                (first - timedelta(one.lookback_days), last)
                for first, last in merge_into_ranges(step.partitions, table.partitioning)
            ]
            read.append(opened.measure(one.date_column, days))
        else:
            read.append(opened.measure_changes(step.previous_versions[one.table]))
    return replace(step, rows=sum(rows for rows, _ in read), bytes=sum(size for _, size in read))
