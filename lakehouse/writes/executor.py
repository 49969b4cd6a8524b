"""Execution of a step: the write mode of the table decides how, and the result is one commit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from lakehouse.definitions import partitions
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.definitions.write_modes import Append, History, Rebuild, Replace
from lakehouse.deltalog import table_log
from lakehouse.plan.steps import Build, Ingest, UpdatePartitions, WriteStep
from lakehouse.writes import audit, row_preserving, rules
from lakehouse.writes.ingestion import ingest
from lakehouse.writes.outcome import Outcome
from lakehouse.writes.table_writer import TableWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Span = tuple[date, date]


def execute_step(writer: TableWriter) -> Outcome:
    """Execute the step.

    Raises:
        LakehouseError: The batch was rejected. The table has none of its rows.
    """
    declared, step = writer.catalog.graph.declarations[writer.step.table], writer.step
    assert isinstance(step, WriteStep)
    if isinstance(declared, Source):
        assert isinstance(step, Ingest)
        return ingest(writer, declared, step)
    _prepare(writer, declared, step)
    match declared.write, step:
        case ((Replace() | Rebuild()), _):
            return _write_whole(writer, declared)
        case History() as history, _:
            return row_preserving.write_history(writer, declared, history)
        case _, Build():
            return row_preserving.rebuild(writer, declared)
        case Append(), _:
            return row_preserving.append(writer, declared)
        case _:
            return row_preserving.merge(writer, declared)


def _prepare(writer: TableWriter, declared: Declaration, step: WriteStep) -> None:
    if not step.is_full_refresh:
        writer.tables.prepare(writer.make_target(declared), step.schema_changes.added_columns)


def _write_whole(writer: TableWriter, table: Table) -> Outcome:
    """Replace the whole table, or the partitions of the step, by the function's output.

    The output is written in one pass that stops at the first row that violates a rule. After such a stop a second
    pass counts the violations and quarantines those rows.
    """
    spans = _compute_partition_spans(writer, table)
    with writer.cache_for_validation(table, compute_rows(writer, table, spans)) as staged:
        others = f"NOT {_build_predicate(table, spans)}" if spans else ""
        retain = (lambda target: target.where(others)) if others else None
        writer.validate(table, rules.select_passing_rows(table, staged), retain)
        return _write_staged(writer, table, staged, spans)


def _write_staged(writer: TableWriter, table: Table, staged: DataFrame, spans: list[Span] | None) -> Outcome:
    rows = rules.stop_on_violation(table, staged)
    writer.clear_stale_rejects(table)
    try:
        written = _commit_rows(writer, table, rows, spans, {"quarantined": 0})
        rejected, warnings = 0, rules.count_warnings(table, _read_written(writer, table, spans))
    except Exception as error:
        if not rules.is_violation_stop(error):
            raise
        rule_counts = audit.count_batch(table, staged, can_have_duplicates=False)
        audit.raise_on_failures(table, rule_counts, staged)
        rejected, warnings = rule_counts.rejected, audit.get_warning_counts(table, rule_counts)
        writer.write_quarantine(table, rules.build_rejects(table, staged, None), rejected)
        written = _commit_rows(
            writer, table, rules.select_passing_rows(table, staged), spans, {"quarantined": rejected}
        )
    partitions = len(writer.step.partitions) if isinstance(writer.step, UpdatePartitions) else None
    return Outcome({"written": written, "quarantined": rejected}, partitions, warnings=warnings)


def _compute_partition_spans(writer: TableWriter, table: Table) -> list[Span] | None:
    """Return the days of the partitions to replace, or None to replace the whole table."""
    if not isinstance(writer.step, UpdatePartitions) or table.partitioning is None:
        return None
    return partitions.merge_into_ranges(writer.step.partitions, table.partitioning)


def compute_rows(writer: TableWriter, table: Table, spans: list[Span] | None) -> DataFrame:
    """Run the table's function for these days of its inputs, with the lookback days before them.

    An input row without a date is in no partition, even when all partitions are computed.
    """
    inputs = {}
    for name, table_input in table.inputs.items():
        inputs[name] = writer.read_snapshot(table_input.table)
        column = table_input.date_column
        if column is None:
            continue
        if spans is None:
            days = f"`{column}` IS NOT NULL"
        else:
            days = partitions.build_range_predicate(column, spans, table_input.lookback_days)
        inputs[name] = inputs[name].where(days)
    staged = writer.apply(table, inputs)
    if spans is None:
        return staged
    assert table.partitioning is not None
    # A row that can have no partition stays, so that it is quarantined, as in a rebuild of all partitions.
    partition = table.partitioning.partition
    can_have_one = partitions.build_range_predicate(partition, [(date.min, date.max)])
    return staged.where(f"{_build_predicate(table, spans)} OR NOT coalesce({can_have_one}, false)")


def _commit_rows(
    writer: TableWriter, table: Table, rows: DataFrame, spans: list[Span] | None, counts: Mapping[str, int]
) -> int:
    """Write the rows in one commit and return their number."""
    target, commit = writer.make_target(table), writer.make_commit(table, counts)
    rows = rows.select(*table.columns)
    if spans is None:
        writer.tables.overwrite(rows, target, commit)
    else:
        writer.tables.replace(rows, target, commit, _build_predicate(table, spans))
    return table_log.count_written_rows(target.path)


def _read_written(writer: TableWriter, table: Table, spans: list[Span] | None) -> DataFrame:
    rows = writer.tables.read_latest(writer.path)
    return rows.where(_build_predicate(table, spans)) if spans else rows


def _build_predicate(table: Table, spans: list[Span]) -> str:
    assert table.partitioning is not None
    return partitions.build_range_predicate(table.partitioning.partition, spans)
