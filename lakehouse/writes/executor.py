"""Carrying out a step: each way of writing, one commit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from lakehouse.definitions import partitions
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.definitions.write_modes import Append, History, Rebuild, Replace
from lakehouse.deltalog import table_log
from lakehouse.landing import conformance
from lakehouse.landing.manifest import Manifest
from lakehouse.landing.zone import LandingZone
from lakehouse.plan.steps import Build, Ingest, UpdatePartitions, WriteStep
from lakehouse.writes import audit, keyed, rules
from lakehouse.writes.table_writer import Outcome, TableWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Span = tuple[date, date]


def execute_step(work: TableWriter) -> Outcome:
    """Do what the step says.

    Raises:
        LakehouseError: the batch was refused; nothing of it is in the table.
    """
    declared, step = work.lake.graph.declarations[work.step.table], work.step
    assert isinstance(step, WriteStep)
    if isinstance(declared, Source):
        assert isinstance(step, Ingest)
        return _ingest(work, declared, step)
    _prepare(work, declared, step)
    match declared.write, step:
        case ((Replace() | Rebuild()), _):
            return _write_whole(work, declared)
        case History() as history, _:
            return keyed.write_history(work, declared, history)
        case _, Build():
            return keyed.rebuild(work, declared)
        case Append(), _:
            return keyed.append(work, declared)
        case _:
            return keyed.merge(work, declared)


def _prepare(work: TableWriter, declared: Declaration, step: WriteStep) -> None:
    if not step.is_full_refresh:
        work.tables.prepare(work.make_target(declared), step.schema_changes.added_columns)


def _ingest(work: TableWriter, source: Source, step: Ingest) -> Outcome:
    """One batch of landed files, by its manifest."""
    landing = work.lake.landing_zone(source)
    history, manifest = landing.read_history(), step.manifest
    known = len(manifest.rejected_files) if manifest else 0
    if manifest is None:
        manifest = _pin_manifest(step, source, landing, history)
    work.run.lease.check()
    manifest = landing.verify_manifest(manifest, compute_fingerprint(source))
    rejected = manifest.rejected_files[known:]
    if not manifest.files:
        return Outcome({}, rejected_files=rejected, is_committed=False)
    _prepare(work, source, step)
    opened = None if manifest.is_full else work.lake.log(source.name)
    rows = work.tables.read_landed(source, manifest, landing.root, opened.columns() if opened else {})
    contract = conformance.summarize_drift(source, (one.columns for one in manifest.files))
    undone = [one.batch for one in history if one.rolled_back_files]
    commit = work.make_commit(source, {}, files=len(manifest.files), contract=contract, undone=undone)
    target = work.make_target(source, source.stats or ("_file_id",))
    paths = {one.path for one in manifest.files}
    grows = source.contract.new_column == "add"
    again = paths & {one.path for m in history for one in m.files if m.batch < manifest.batch}
    if manifest.is_full:
        work.tables.overwrite(rows, target, commit)
    elif source.on_redelivery == "replace" and again:
        # The predicate covers the earlier deliveries of these files and the batch itself, and no other row.
        work.tables.replace(
            rows,
            target,
            commit,
            f"{partitions.build_in_predicate('_source_file', again)} OR _batch_id = {manifest.batch}",
            can_add_columns=grows,
        )
    else:
        work.tables.append(rows, target, commit, can_add_columns=grows)
    return Outcome({"written": table_log.rows_written(target.path)}, rejected_files=rejected, contract=contract)


def _pin_manifest(step: Ingest, source: Source, landing: LandingZone, history: list[Manifest]) -> Manifest:
    """The batch's manifest, written before any of its files is read.

    Raises:
        LandingError: a full refresh would lose rows.
    """
    if step.is_full_refresh:
        landing.check_refresh(history)
    return landing.write_manifest(step.batch, compute_fingerprint(source), history, step.files, step.is_full_refresh)


def _write_whole(work: TableWriter, table: Table) -> Outcome:
    """Rebuild, and replace by partition: the function's output takes the place of what was there.

    It is written in one pass that stops at the first row which breaks a rule; only then is it gone through with care.
    """
    spans = _partition_spans(work, table)
    with work.cached_for_validation(table, compute_rows(work, table, spans)) as staged:
        kept = f"NOT {_predicate(table, spans)}" if spans else ""
        work.validate(table, rules.passing_rows(table, staged), (lambda there: there.where(kept)) if kept else None)
        return _write_staged(work, table, staged, spans)


def _write_staged(work: TableWriter, table: Table, staged: DataFrame, spans: list[Span] | None) -> Outcome:
    rows = rules.stop_on_violation(table, staged)
    work.clear_stale_rejects(table)
    try:
        written = _commit_rows(work, table, rows, spans, {"quarantined": 0})
        rejected, warned = 0, rules.count_warnings(table, _read_written(work, table, spans))
    except Exception as error:
        if not rules.is_violation_stop(error):
            raise
        counted = audit.count_batch(table, staged, can_have_duplicates=False)
        audit.raise_on_failures(table, counted)
        rejected, warned = counted.rejected, audit.warning_counts(table, counted)
        work.write_quarantine(table, rules.rejected_rows(table, staged, None), rejected)
        written = _commit_rows(work, table, rules.passing_rows(table, staged), spans, {"quarantined": rejected})
    partitions = len(work.step.partitions) if isinstance(work.step, UpdatePartitions) else None
    return Outcome({"written": written, "quarantined": rejected}, partitions, warnings=warned)


def _partition_spans(work: TableWriter, table: Table) -> list[Span] | None:
    """The days of the partitions to replace; None where the whole table is."""
    if not isinstance(work.step, UpdatePartitions) or table.partitioning is None:
        return None
    return partitions.merge_into_ranges(work.step.partitions, table.partitioning)


def compute_rows(work: TableWriter, table: Table, spans: list[Span] | None) -> DataFrame:
    """The function's output, for these days of its inputs and what it needs before them.

    A row of an input without its day is in no partition, whether some of them are computed or all.
    """
    inputs = {}
    for name, one in table.inputs.items():
        inputs[name] = work.read_snapshot(one.table)
        if one.date_column is not None:
            days = (
                f"`{one.date_column}` IS NOT NULL"
                if spans is None
                else partitions.build_range_predicate(one.date_column, spans, one.lookback_days)
            )
            inputs[name] = inputs[name].where(days)
    staged = work.apply(table, inputs)
    if spans is None:
        return staged
    assert table.partitioning is not None
    # A row without its partition stays: it is quarantined, as it is when all partitions are computed.
    return staged.where(f"{_predicate(table, spans)} OR `{table.partitioning.partition}` IS NULL")


def _commit_rows(
    work: TableWriter, table: Table, rows: DataFrame, spans: list[Span] | None, counts: Mapping[str, int]
) -> int:
    """Write the rows in one commit; returns how many there were."""
    target, commit = work.make_target(table), work.make_commit(table, counts)
    rows = rows.select(*table.columns)
    if spans is None:
        work.tables.overwrite(rows, target, commit)
    else:
        work.tables.replace(rows, target, commit, _predicate(table, spans))
    return table_log.rows_written(target.path)


def _read_written(work: TableWriter, table: Table, spans: list[Span] | None) -> DataFrame:
    there = work.tables.read_latest(work.path)
    return there.where(_predicate(table, spans)) if spans else there


def _predicate(table: Table, spans: list[Span]) -> str:
    assert table.partitioning is not None
    return partitions.build_range_predicate(table.partitioning.partition, spans)
