"""Plan the next run: decide the step of each table from logs and manifests alone. Needs no Spark."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from lakehouse.definitions.fingerprint import can_read_column, compute_fingerprint
from lakehouse.definitions.partitions import find_affected_partitions, merge_into_ranges, subtract_days
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.deltalog.commit_record import InputVersion, Record
from lakehouse.deltalog.effective_commits import is_rolled_back, resolve_current_version
from lakehouse.deltalog.table_log import TableLog
from lakehouse.errors import LakehouseError, LedgerError
from lakehouse.landing import schema_drift
from lakehouse.plan import schema_diff
from lakehouse.plan.backfill import find_completed_backfill, select_backfill_partitions
from lakehouse.plan.schema_diff import SchemaChanges
from lakehouse.plan.steps import Blocked, Build, ForeignCommit, Idle, Ingest, Step, Update, UpdatePartitions, WriteStep

if TYPE_CHECKING:
    from lakehouse.catalog import Catalog
    from lakehouse.plan.steps import RunRequest

S = TypeVar("S", bound=Step)
FEED_EXPIRED = "the change data feed of an input has expired"


def plan_steps(catalog: Catalog, names: Iterable[str], request: RunRequest) -> list[Step]:
    """Return the steps of the next run, in order. A table with inputs that the run changes has ``pending_inputs``."""
    steps: dict[str, Step] = {}
    catalog = catalog.cache_logs()
    for name in names:
        step = _preview_files(catalog, decide_step(catalog, name, request))
        pending = tuple(
            i
            for i in catalog.graph.list_inputs(name)
            if (i in steps and (steps[i].has_work or steps[i].pending_inputs))
        )
        if pending and _is_affected_by(catalog, name, pending):
            step = _defer(catalog, step, [steps[i] for i in pending])
        steps[name] = step
    return list(steps.values())


def _preview_files(catalog: Catalog, step: Step) -> Step:
    """Return a source's step with the row count of its files, where it is known, and with their columns.

    Only planning opens the files for that. A run reads them anyway.
    """
    declared = catalog.graph.declarations[step.table]
    if not isinstance(declared, Source) or not isinstance(step, Ingest) or not step.files:
        return step
    landing = catalog.get_landing_zone(declared)
    drift, columns = schema_drift.preview_drift(declared.file_source, landing.preview_files(step.files))
    changed = tuple(dict.fromkeys((*step.changed_columns, *columns)))
    return replace(step, rows=landing.count_rows(step.files), drift=drift, changed_columns=changed)


def _is_affected_by(catalog: Catalog, name: str, inputs: Collection[str]) -> bool:
    """Return whether the run writes the table after these inputs have changed."""
    table = catalog.graph.declarations[name]
    assert isinstance(table, Table)
    without_data = {input_.table for input_ in table.inputs.values() if catalog.read_log(input_.table) is None}
    if without_data:
        return without_data <= set(inputs)
    return any(
        input_.table in inputs
        and (input_.role == "incremental" or input_.on_change == "rebuild" or catalog.read_log(name) is None)
        for input_ in table.inputs.values()
    )


def _defer(catalog: Catalog, step: Step, input_steps: list[Step]) -> Step:
    """Return the step as far as it is known before its inputs have changed."""
    table = catalog.graph.declarations[step.table]
    assert isinstance(table, Table)
    inputs = tuple(input_step.table for input_step in input_steps)
    rebuilt_inputs = {
        input_step.table
        for input_step in input_steps
        if isinstance(input_step, Build) or (isinstance(input_step, WriteStep) and input_step.is_full_refresh)
    }
    reasons = tuple(f"{name} will {'be rebuilt' if name in rebuilt_inputs else 'change'}" for name in inputs)
    rebuild_lookups = {i.table for i in table.inputs.values() if i.role == "lookup" and i.on_change == "rebuild"}
    incremental = {i.table for i in table.incremental_inputs.values()}
    is_rebuild = table.write.is_rebuilt or rebuild_lookups & set(inputs) or incremental & rebuilt_inputs
    reasons = (*reasons, *step.reasons) if step.has_work else reasons
    if isinstance(step, Build) or (isinstance(step, Update) and not is_rebuild):
        return replace(step, reasons=reasons, pending_inputs=inputs)
    rows = step.rows if isinstance(step, WriteStep) else None
    kind = Build if is_rebuild or isinstance(step, Blocked) else Update
    return _convert_step(kind, step, reasons=reasons, pending_inputs=inputs, rows=rows)


def decide_step(catalog: Catalog, name: str, request: RunRequest) -> Step:
    """Decide the step of one table, given the current commits. An unexpected error names the table in a note.

    Raises:
        LedgerError: A log is damaged.
        LandingError: A manifest is damaged.
        MissingStateError: A manifest of a committed batch is missing, or the quarantine of the table.
    """
    try:
        return _decide_step(catalog, name, request)
    except LakehouseError:
        raise
    except Exception as error:
        error.add_note(f"The table is {name}.")
        raise


def _decide_step(catalog: Catalog, name: str, request: RunRequest) -> Step:
    declared = catalog.graph.declarations[name]
    log = catalog.read_log(name)
    last = log.last if log else None
    record = last.record if last else None
    full = name in request.full_refresh
    if isinstance(declared, Source):
        step = _decide_source(catalog, declared, log, full)
    else:
        if not full:
            catalog.check_quarantine(name, log)
        step = _decide_table(catalog, declared, record, full, request)
    changes = (
        schema_diff.compare_schemas(catalog.get_written_columns(name), log.read_columns(), declared)
        if log
        else SchemaChanges()
    )
    if (
        changes.widenings
        and not changes.conflicts
        and not full
        and record is not None
        and _can_rebuild(catalog, declared)
    ):
        rebuild = _decide_step(catalog, name, replace(request, full_refresh=request.full_refresh | {name}))
        return replace(rebuild, reasons=("a column's type is widened",))
    is_refreshed = full or (isinstance(step, WriteStep) and step.is_full_refresh)
    return replace(
        step,
        schema_changes=changes,
        changed_columns=changes.affected_columns,
        is_breaking=bool(changes.conflicts or changes.widenings) and not is_refreshed,
        is_code_changed=record is not None and record.fingerprint != compute_fingerprint(declared),
        foreign_commits=_find_foreign_commits(catalog, declared, log, step),
    )


def _find_foreign_commits(
    catalog: Catalog, declared: Declaration, log: TableLog | None, step: Step
) -> tuple[ForeignCommit, ...]:
    """Return the commits of other writers in the table, and those in its inputs that the step reads for the first time.

    An input is read up to its last recorded commit.
    """
    recorded = log.last.version if log and log.last else -1
    logs: dict[str, tuple[TableLog | None, int, int | None]] = {declared.name: (log, recorded, None)}
    for name, input_version in step.inputs.items() if step.has_work else ():
        logs[name] = (catalog.read_log(name), step.previous_versions.get(name, -1), input_version.version)
    return tuple(
        ForeignCommit(name, entry.version, entry.operation)
        for name, (own_log, after, until) in logs.items()
        for entry in (own_log.find_foreign_commits(after) if own_log else ())
        if until is None or entry.version < until
    )


def _can_rebuild(catalog: Catalog, declared: Declaration) -> bool:
    """Return whether a rebuild of the table and of its readers loses no rows.

    A table that appends the rows of another one may have more rows than the other has now. A source checks its files.
    """
    tables = (
        catalog.graph.declarations[name] for name in (declared.name, *catalog.graph.find_downstream(declared.name))
    )
    return not any(
        isinstance(table, Table)
        and table.write.is_append_only
        and catalog.get_landed_source(table) is None
        and catalog.read_log(table.name) is not None
        for table in tables
    )


def _decide_source(catalog: Catalog, source: Source, log: TableLog | None, is_full_refresh: bool) -> Step:
    landing = catalog.get_landing_zone(source)
    record = log.last.record if log and log.last else None
    history = landing.read_history_without(record.rolled_back_batches if record else ())
    if not is_full_refresh:
        catalog.check_manifests(source, history, log)
    committed = record.batch if record else 0
    generation = (record.generation if record else 1) + (1 if is_full_refresh and record else 0)
    # The oldest one: a copy of the lake that was made during runs may have several unfinished manifests.
    unfinished = next((m for m in history if m.batch > committed and m.files), None)
    batch = max([committed, *(m.batch for m in history)]) + 1
    if unfinished and not is_full_refresh:
        return Ingest(
            table=source.name,
            reasons=(f"batch {unfinished.batch} was left unfinished",),
            batch=unfinished.batch,
            generation=generation + (1 if unfinished.is_full and record else 0),
            manifest=unfinished,
            files=unfinished.files,
            rows=None,
            bytes=sum(file.size for file in unfinished.files),
            is_full_refresh=unfinished.is_full,
        )
    files = landing.list_files() if is_full_refresh else landing.find_new_files(history, landing.fingerprint)
    if not files and not (is_full_refresh and record):
        rejected = len(landing.find_rejected_files(history))
        reason = "no new files" + (f"; {rejected} rejected" if rejected else "")
        return Idle(
            table=source.name, reasons=(reason + ("; the run queries its database" if source.database else ""),)
        )
    return Ingest(
        table=source.name,
        reasons=("full refresh" if is_full_refresh else f"{len(files)} new file{'s' if len(files) > 1 else ''}",),
        batch=batch,
        generation=generation,
        files=tuple(files),
        rows=None,
        bytes=sum(file.size for file in files),
        is_full_refresh=is_full_refresh,
    )


def _decide_table(
    catalog: Catalog, table: Table, record: Record | None, is_full_refresh: bool, request: RunRequest
) -> Step:
    logs = {name: catalog.read_log(name) for name in catalog.graph.list_inputs(table.name)}
    entries = {name: log.last if log else None for name, log in logs.items()}
    without_data = [name for name, entry in entries.items() if entry is None]
    if without_data:
        return Blocked(table=table.name, reasons=(f"{', '.join(without_data)} has no data yet",))
    inputs = {n: InputVersion(e.version, e.record.generation) for n, e in entries.items() if e and e.record}
    if record is None or is_full_refresh:
        step = Build(
            table=table.name,
            reasons=("full refresh" if record else "no table yet",),
            inputs=inputs,
            batch=record.batch + 1 if record else 1,
            generation=record.generation + 1 if record else 1,
            is_full_refresh=is_full_refresh and record is not None,
        )
        return _add_size(table, logs, step)
    current = {name: resolve_current_version(logs.get(name), version) for name, version in record.inputs.items()}
    return _add_size(
        table, logs, _decide_change(catalog, table, replace(record, inputs=current), inputs, request, logs)
    )


def _decide_change(
    catalog: Catalog,
    table: Table,
    record: Record,
    inputs: Mapping[str, InputVersion],
    request: RunRequest,
    logs: Mapping[str, TableLog | None],
) -> Step:
    rebuild_reasons, reasons = _compare_inputs(table, record, inputs, logs)
    requested = select_backfill_partitions(table, request.since, request.until)
    step = Update(
        table=table.name,
        reasons=tuple(rebuild_reasons or reasons),
        inputs=inputs,
        previous_versions={name: version.version for name, version in record.inputs.items()},
        batch=record.batch + 1,
        generation=record.generation,
    )
    if rebuild_reasons or (reasons and table.write.is_rebuilt):
        return _convert_step(Build, step, generation=record.generation + 1)
    if not reasons and not requested:
        return _convert_step(Idle, step, reasons=("its inputs have not changed",))
    if table.partitioning:
        return _decide_partitions(catalog, table, step, logs, requested)
    return _check_feed(catalog, table, step, logs)


def _compare_inputs(
    table: Table, record: Record, inputs: Mapping[str, InputVersion], logs: Mapping[str, TableLog | None]
) -> tuple[list[str], list[str]]:
    """Compare the input versions with those of the last commit.

    Returns:
        The reasons to rebuild the table, and the reasons to update it.
    """
    rebuild_reasons, reasons = [], []
    for input_ in table.inputs.values():
        name = input_.table
        before, after, log = record.inputs.get(name), inputs[name], logs[name]
        if before is None:
            rebuild_reasons.append(f"{name} is a new input")
        elif log and before.generation != after.generation and is_rolled_back(log.read_entries(), before.version):
            rebuild_reasons.append(f"{name} was rolled back, and the table has rows of the rolled back run")
        elif before.generation != after.generation and (input_.role == "incremental" or input_.on_change == "rebuild"):
            rebuild_reasons.append(f"{name} was rebuilt")
        elif before.version != after.version and input_.role == "lookup" and input_.on_change == "rebuild":
            rebuild_reasons.append(f'lookup {name} changed (on_change="rebuild")')
        elif before.version != after.version and input_.role == "incremental":
            reasons.append(f"{name} {before.version} to {after.version}")
    return rebuild_reasons, reasons


def _decide_partitions(
    catalog: Catalog, table: Table, step: Update, logs: Mapping[str, TableLog | None], requested: set[date]
) -> Step:
    own_log, write = catalog.read_log(table.name), table.partitioning
    assert own_log is not None and write is not None
    completed = find_completed_backfill(table, own_log, requested, step.inputs) if requested else set()
    requested = requested - completed
    partitions: set[date] = set()
    unplaced: list[str] = []
    # A row that only landed again is unchanged for a table that does not read the row's origin.
    ignored = [c for c in ORIGIN_COLUMNS if not can_read_column(table, c)]
    try:
        for input_ in table.incremental_inputs.values():
            log = logs[input_.table]
            assert input_.date_column is not None and log is not None
            days = log.read_net_changed_values(
                input_.date_column, step.previous_versions[input_.table], step.inputs[input_.table].version, ignored
            )
            beyond = {day for day in days if isinstance(day, str)}  # such as 10000-01-01
            if beyond:
                unplaced.append(f"rows of {input_.table} with {input_.date_column} {min(beyond)} are in no partition")
            partitions |= find_affected_partitions(days - beyond, input_.affects_days, write)
    except LedgerError:
        return _fall_back_to_rebuild(step)
    reasons = (*step.reasons, *(["backfill"] if requested else []), *unplaced)
    if completed:
        reasons = (*reasons, f"{len(completed)} partition{'s' if len(completed) > 1 else ''} backfilled already")
    if not partitions and not requested:
        return _convert_step(Idle, step, reasons=reasons if completed else (*reasons, "no partition affected"))
    backfilled = tuple(sorted(requested - partitions))
    partitions |= requested
    return _convert_step(
        UpdatePartitions, step, partitions=tuple(sorted(partitions)), backfilled=backfilled, reasons=reasons
    )


def _check_feed(catalog: Catalog, table: Table, step: Update, logs: Mapping[str, TableLog | None]) -> Step:
    """Return the step, or a rebuild where the change feed no longer has the changes that it needs."""
    try:
        for input_ in table.incremental_inputs.values():
            log, column = logs[input_.table], next(iter(catalog.graph.declarations[input_.table].columns))
            if log is not None and not table.write.reads_all_rows:
                log.check_changes(column, step.previous_versions[input_.table], step.inputs[input_.table].version)
    except LedgerError:
        return _fall_back_to_rebuild(step)
    return step


def _fall_back_to_rebuild(step: Update) -> Build:
    return _convert_step(Build, step, generation=step.generation + 1, reasons=(*step.reasons, FEED_EXPIRED))


def _convert_step(kind: type[S], step: Step, **changes: Any) -> S:
    """Return a step of another kind with the fields that both kinds have, and with the given changes."""
    names = {field.name for field in fields(kind)} & {field.name for field in fields(step)}
    return kind(**{name: getattr(step, name) for name in names} | changes)


def _add_size(table: Table, logs: Mapping[str, TableLog | None], step: Step) -> Step:
    """Return the step with the rows and bytes that it would read, by Delta's own counts.

    A lookup is read in full. Of an incremental input, the changed rows are counted. Where the step replaces partitions,
    the files with rows of the partitions and of the look-back days count instead.
    """
    if not isinstance(step, WriteStep):
        return step
    sizes = []
    for input_ in table.inputs.values():
        log = logs[input_.table]
        assert log is not None
        if isinstance(step, Build) or input_.role == "lookup" or table.write.reads_all_rows:
            sizes.append(log.measure())
        elif isinstance(step, UpdatePartitions) and table.partitioning and input_.date_column is not None:
            ranges = [
                (subtract_days(first, input_.lookback_days), last)
                for first, last in merge_into_ranges(step.partitions, table.partitioning)
            ]
            sizes.append(log.measure(input_.date_column, ranges))
        else:
            sizes.append(log.measure_changes(step.previous_versions[input_.table]))
    return replace(step, rows=sum(rows for rows, _ in sizes), bytes=sum(size for _, size in sizes))
