"""Carrying out a step: each way of writing, one commit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from lakehouse.definitions import partitions
from lakehouse.definitions.fingerprint import definition_of
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declared, Table
from lakehouse.definitions.write_modes import Append, History, Rebuild, Replace
from lakehouse.deltalog import table_log
from lakehouse.landing import conformance
from lakehouse.landing.manifest import Manifest
from lakehouse.landing.zone import Landing
from lakehouse.plan.steps import Build, Ingest, UpdatePartitions, WriteStep
from lakehouse.writes import audit, keyed, rules
from lakehouse.writes.table_writer import Outcome, Work

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Span = tuple[date, date]


def carry_out(work: Work) -> Outcome:
    """Do what the step says.

    Raises:
        LakehouseError: the batch was refused; nothing of it is in the table.
    """
    declared, step = work.lake.graph.declared[work.step.table], work.step
    assert isinstance(step, WriteStep)
    if isinstance(declared, Source):
        assert isinstance(step, Ingest)
        return _ingest(work, declared, step)
    _prepare(work, declared, step)
    match declared.write, step:
        case ((Replace() | Rebuild()), _):
            return _whole(work, declared)
        case History() as history, _:
            return keyed.write_history(work, declared, history)
        case _, Build():
            return keyed.rebuild(work, declared)
        case Append(), _:
            return keyed.append(work, declared)
        case _:
            return keyed.merge(work, declared)


def _prepare(work: Work, declared: Declared, step: WriteStep) -> None:
    if not step.full_refresh:
        work.tables.prepare(work.target(declared), step.changes.added)


def _ingest(work: Work, source: Source, step: Ingest) -> Outcome:
    """One batch of landed files, by its manifest."""
    landing = work.lake.landing(source)
    history, manifest = landing.history(), step.manifest
    known = len(manifest.rejected) if manifest else 0
    if manifest is None:
        manifest = _pinned(step, source, landing, history)
    work.run.hold.check()
    manifest = landing.verified(manifest, definition_of(source))
    rejected = manifest.rejected[known:]
    if not manifest.files:
        return Outcome({}, rejected_files=rejected, committed=False)
    _prepare(work, source, step)
    opened = None if manifest.full else work.lake.log(source.name)
    rows = work.tables.read_landed(source, manifest, landing.root, opened.columns() if opened else {})
    contract = conformance.summed(source, (one.columns for one in manifest.files))
    undone = [one.batch for one in history if one.undone]
    commit = work.commit(source, {}, files=len(manifest.files), contract=contract, undone=undone)
    target = work.target(source, source.stats or ("_file_id",))
    paths = {one.path for one in manifest.files}
    grows = source.contract.new_column == "add"
    again = paths & {one.path for m in history for one in m.files if m.batch < manifest.batch}
    if manifest.full:
        work.tables.overwrite(rows, target, commit)
    elif source.relanded == "replace" and again:
        # The predicate covers the earlier deliveries of these files and the batch itself, and no other row.
        work.tables.replace(
            rows,
            target,
            commit,
            f"{partitions.one_of('_source_file', again)} OR _batch_id = {manifest.batch}",
            grows=grows,
        )
    else:
        work.tables.append(rows, target, commit, grows=grows)
    return Outcome({"written": table_log.rows_written(target.path)}, rejected_files=rejected, contract=contract)


def _pinned(step: Ingest, source: Source, landing: Landing, history: list[Manifest]) -> Manifest:
    """The batch's manifest, written before any of its files is read.

    Raises:
        LandingError: a full refresh would lose rows.
    """
    if step.full_refresh:
        landing.check_refresh(history)
    return landing.write(step.batch, definition_of(source), history, step.files, step.full_refresh)


def _whole(work: Work, table: Table) -> Outcome:
    """Rebuild, and replace by partition: the function's output takes the place of what was there.

    It is written in one pass that stops at the first row which breaks a rule; only then is it gone through with care.
    """
    spans = _spans(work, table)
    with work.held(table, computed(work, table, spans)) as staged:
        kept = f"NOT {_predicate(table, spans)}" if spans else ""
        work.validate(table, rules.good(table, staged), (lambda there: there.where(kept)) if kept else None)
        return _written_whole(work, table, staged, spans)


def _written_whole(work: Work, table: Table, staged: DataFrame, spans: list[Span] | None) -> Outcome:
    rows = rules.guarded(table, staged)
    work.clear_left_rejects(table)
    try:
        written = _put(work, table, rows, spans, {"quarantined": 0})
        rejected, warned = 0, rules.warned(table, _written(work, table, spans))
    except Exception as error:
        if not rules.stopped(error):
            raise
        counted = audit.audit(table, staged, doubled=False)
        audit.refuse_failures(table, counted)
        rejected, warned = counted.rejected, audit.warnings(table, counted)
        work.quarantine(table, rules.quarantined(table, staged, None), rejected)
        written = _put(work, table, rules.good(table, staged), spans, {"quarantined": rejected})
    partitions = len(work.step.partitions) if isinstance(work.step, UpdatePartitions) else None
    return Outcome({"written": written, "quarantined": rejected}, partitions, warnings=warned)


def _spans(work: Work, table: Table) -> list[Span] | None:
    """The days of the partitions to replace; None where the whole table is."""
    if not isinstance(work.step, UpdatePartitions) or table.partitioning is None:
        return None
    return partitions.spans(work.step.partitions, table.partitioning)


def computed(work: Work, table: Table, spans: list[Span] | None) -> DataFrame:
    """The function's output, for these days of its inputs and what it needs before them.

    A row of an input without its day is in no partition, whether some of them are computed or all.
    """
    inputs = {}
    for name, one in table.inputs.items():
        inputs[name] = work.snapshot(one.table)
        if one.by is not None:
            days = f"`{one.by}` IS NOT NULL" if spans is None else partitions.within(one.by, spans, one.context_days)
            inputs[name] = inputs[name].where(days)
    staged = work.called(table, inputs)
    if spans is None:
        return staged
    assert table.partitioning is not None
    # A row without its partition stays: it is quarantined, as it is when all partitions are computed.
    return staged.where(f"{_predicate(table, spans)} OR `{table.partitioning.partition}` IS NULL")


def _put(work: Work, table: Table, rows: DataFrame, spans: list[Span] | None, counts: Mapping[str, int]) -> int:
    """Write the rows in one commit; returns how many there were."""
    target, commit = work.target(table), work.commit(table, counts)
    rows = rows.select(*table.columns)
    if spans is None:
        work.tables.overwrite(rows, target, commit)
    else:
        work.tables.replace(rows, target, commit, _predicate(table, spans))
    return table_log.rows_written(target.path)


def _written(work: Work, table: Table, spans: list[Span] | None) -> DataFrame:
    there = work.tables.read_latest(work.path)
    return there.where(_predicate(table, spans)) if spans else there


def _predicate(table: Table, spans: list[Span]) -> str:
    assert table.partitioning is not None
    return partitions.within(table.partitioning.partition, spans)
