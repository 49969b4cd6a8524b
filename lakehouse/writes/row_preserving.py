"""Append, merge and history: writes of tables with one row for each row of their incremental input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.definitions.tables import Table
from lakehouse.definitions.write_modes import History
from lakehouse.deltalog import table_log
from lakehouse.plan.steps import Build
from lakehouse.writes import audit, transforms
from lakehouse.writes import rules as row_rules
from lakehouse.writes.audit import RuleCounts
from lakehouse.writes.outcome import Outcome
from lakehouse.writes.table_writer import Batch, TableWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_FEED = ("_change_type", "_commit_version", "_commit_timestamp")
_DELETE = "_delete"


def rebuild(writer: TableWriter, table: Table) -> Outcome:
    """Rebuild an append or merge table from its whole input, without a comparison and without a cache.

    The first pass counts keys only, and its write stops at a row that violates a rule. A second pass then counts
    the violations and quarantines those rows.
    """
    try:
        return _rebuild_batch(writer, table, has_rules=False)
    except Exception as error:
        if not row_rules.is_violation_stop(error):
            raise
    return _rebuild_batch(writer, table, has_rules=True)


def _rebuild_batch(writer: TableWriter, table: Table, *, has_rules: bool) -> Outcome:
    batch = writer.stage_batch(table, writer.read_snapshot(table.incremental_input_table))
    with writer.cache_for_validation(table, batch.staged) as staged:
        return _write_rebuilt(writer, table, replace(batch, staged=staged), has_rules)


def _write_rebuilt(writer: TableWriter, table: Table, batch: Batch, has_rules: bool) -> Outcome:
    rule_counts = audit.count_batch(table, batch.staged, not table.write.is_append_only, has_rules=has_rules)
    written = rule_counts.rows - rule_counts.rejected - rule_counts.duplicates
    counts = {
        "written": written,
        "unchanged": 0,
        "superseded": rule_counts.duplicates,
        "quarantined": rule_counts.rejected,
    }
    counts = writer.check_counts(table, batch, rule_counts, counts)
    writer.quarantine_batch(table, rule_counts, batch)
    rows = batch.staged
    if writer.has_suite(table):
        passing = row_rules.select_passing_rows(table, rows)
        newest = transforms.keep_newest_of_duplicates(table, passing) if rule_counts.duplicates else passing
        writer.validate(table, newest)
    if not has_rules:
        rows = row_rules.stop_on_violation(table, rows)
    rows = _select_newest_passing_rows(table, rows, rule_counts)
    target = writer.make_target(table)
    writer.tables.overwrite(
        rows.select(*writer.select_written_columns(rows)), target, writer.make_commit(table, counts)
    )
    audit.check_written(table.name, written, table_log.count_written_rows(target.path))
    if has_rules:
        return Outcome(counts, warnings=audit.get_warning_counts(table, rule_counts))
    return Outcome(counts, warnings=row_rules.count_warnings(table, writer.tables.read_latest(writer.path)))


def append(writer: TableWriter, table: Table) -> Outcome:
    """Append the rows that were added to the incremental input."""
    feed = writer.read_changes(table.incremental_input_table)
    batch = writer.stage_batch(table, feed.where("_change_type = 'insert'").drop(*_FEED))
    rule_counts = audit.count_batch(table, batch.staged, can_have_duplicates=False)
    written = rule_counts.rows - rule_counts.rejected
    counts = {"written": written, "unchanged": 0, "superseded": 0, "quarantined": rule_counts.rejected}
    counts = writer.check_counts(table, batch, rule_counts, counts)
    writer.quarantine_batch(table, rule_counts, batch)
    rows = _select_passing_rows(table, batch.staged, rule_counts)
    writer.validate(table, rows, lambda target: target)
    writer.tables.append(
        rows.select(*writer.select_written_columns(rows)), writer.make_target(table), writer.make_commit(table, counts)
    )
    return Outcome(counts, warnings=audit.get_warning_counts(table, rule_counts))


def merge(writer: TableWriter, table: Table) -> Outcome:
    """Merge the changed rows of the incremental input, cached while they are compared with the table."""
    feed = writer.read_changes(table.incremental_input_table)
    if _has_removed_rows(writer, table, feed):
        return _merge_recomputed(writer, table, feed)
    batch = writer.stage_batch(table, feed.drop(*_FEED))
    batch = replace(batch, staged=batch.staged.persist())
    try:
        return _merge_batch(writer, table, batch, audit.count_batch(table, batch.staged))
    finally:
        batch.staged.unpersist()


def _merge_batch(writer: TableWriter, table: Table, batch: Batch, rule_counts: RuleCounts) -> Outcome:
    prune = transforms.build_key_range_predicate(table, rule_counts.key_ranges)
    newest = _select_passing_rows(table, batch.staged, rule_counts)
    if rule_counts.duplicates:
        newest = transforms.keep_newest_per_key(table, newest)
    columns = writer.select_written_columns(newest)
    existing = writer.tables.read_latest(writer.path).alias("t")
    existing = existing.where(prune) if prune else existing
    classified = transforms.classify(table, newest, existing, columns).persist()
    try:
        classes = {row["_class"]: int(row["count"]) for row in classified.groupBy("_class").count().collect()}
        counts = {
            "written": classes.get("new", 0) + classes.get("newer", 0),
            "unchanged": classes.get("same", 0),
            "superseded": rule_counts.duplicates + classes.get("older", 0),
            "quarantined": rule_counts.rejected,
        }
        counts = writer.check_counts(table, batch, rule_counts, counts)
        writer.quarantine_batch(table, rule_counts, batch)
        rows = classified.where(F.col("_class").isin("new", "newer")).select(*columns)
        if counts["written"]:
            writer.validate(table, rows, lambda target: transforms.anti_join(target, rows, table.key))
        target, commit = writer.make_target(table), writer.make_commit(table, counts)
        if classes.get("newer"):
            writer.tables.merge(rows, target, commit, table.key, prune, None)
        else:
            writer.tables.append(rows, target, commit)
        return Outcome(counts, warnings=audit.get_warning_counts(table, rule_counts))
    finally:
        classified.unpersist()


def _merge_recomputed(writer: TableWriter, table: Table, feed: DataFrame) -> Outcome:
    """Compute the table's rows from its whole input again, and merge the difference.

    Rows left the input, so that older rows of their keys count again. If the input is a table and not a source,
    only the keys of its changed rows are computed, before and after the change.
    """
    batch = writer.stage_batch(table, writer.read_snapshot(table.incremental_input_table))
    staged, existing = batch.staged, writer.tables.read_latest(writer.path)
    if writer.catalog.get_landed_source(table) is None:
        keys = writer.apply_to(table, feed.drop(*_FEED)).select(*table.key).distinct()
        staged, existing = (transforms.semi_join(rows, keys, table.key) for rows in (staged, existing))
        batch = replace(batch, staged=staged)
    rule_counts = audit.count_batch(table, staged)
    expected = _select_newest_passing_rows(table, staged, rule_counts)
    expected = expected.select(*writer.select_written_columns(expected))
    return _merge_expected(writer, table, batch, rule_counts, expected, existing, table.key)


def write_history(writer: TableWriter, table: Table, history: History) -> Outcome:
    """Compute the type 2 versions of all observations, and merge what differs from the table."""
    batch = writer.stage_batch(table, writer.read_snapshot(table.incremental_input_table))
    batch = replace(batch, staged=batch.staged.persist())
    observed = key_by_observation(table, history)
    try:
        rule_counts = audit.count_batch(observed, batch.staged)
        passing = _select_passing_rows(observed, batch.staged, rule_counts)
        expected = compute_versions(writer, table, history, passing, batch.input_rows)
        existing = None if isinstance(writer.step, Build) else writer.tables.read_latest(writer.path)
        return _merge_expected(writer, observed, batch, rule_counts, expected, existing, (*table.key, "valid_from"))
    finally:
        batch.staged.unpersist()


def key_by_observation(table: Table, history: History) -> Table:
    """Return the table keyed by observation, not by version: the rules apply to observations."""
    return replace(table, key=(*table.key, history.effective_column))


def compute_versions(
    writer: TableWriter, table: Table, history: History, passing: DataFrame, input_rows: DataFrame
) -> DataFrame:
    """Compute the versions to write from the observations that pass.

    Args:
        input_rows: All rows of the incremental input, with the rows that a rule quarantines.
    """
    if history.has_snapshots:
        expected = transforms.compute_snapshot_versions(table, history, passing, writer.apply_to(table, input_rows))
    else:
        expected = transforms.compute_event_versions(table, history, passing)
    return expected.select(*writer.select_written_columns(expected))


def _merge_expected(
    writer: TableWriter,
    observed: Table,
    batch: Batch,
    rule_counts: RuleCounts,
    expected: DataFrame,
    existing: DataFrame | None,
    key: Sequence[str],
) -> Outcome:
    """Replace the existing rows by the expected rows, in one commit that touches only rows that differ.

    Args:
        observed: The table with the key by which its rows were counted.
        existing: The table's rows to replace. Without them the expected rows become the whole table.
        key: Columns that identify a row of the table.
    """
    expected = expected.persist()
    differing = None
    try:
        row_count = expected.count()  # before the comparison, so that its plan knows the size of the cache
        if existing is not None:
            differing = transforms.compute_differences(
                expected, existing.select(*expected.columns), key, _DELETE
            ).persist()
        written, deleted = (row_count, 0) if differing is None else _count_changes(differing)
        passing = rule_counts.rows - rule_counts.rejected - rule_counts.duplicates
        counts = {
            "written": written,
            "unchanged": passing - written,  # with observations of a history that add no version
            "superseded": rule_counts.duplicates,
            "quarantined": rule_counts.rejected,
        }
        counts = writer.check_counts(observed, batch, rule_counts, counts)
        has_source = writer.catalog.get_landed_source(observed) is not None
        writer.quarantine_batch(observed, rule_counts, batch, is_full_input=has_source)
        counts |= {"deleted": deleted} if deleted else {}
        _commit_expected(writer, expected, differing, counts, key)
        return Outcome(counts, warnings=audit.get_warning_counts(observed, rule_counts))
    finally:
        expected.unpersist()
        if differing is not None:
            differing.unpersist()


def _count_changes(differing: DataFrame) -> tuple[int, int]:
    """Count the rows to upsert and the rows to delete."""
    counts = {row[_DELETE]: int(row["count"]) for row in differing.groupBy(_DELETE).count().collect()}
    return counts.get(False, 0), counts.get(True, 0)


def _commit_expected(
    writer: TableWriter,
    expected: DataFrame,
    differing: DataFrame | None,
    counts: Mapping[str, int],
    key: Sequence[str],
) -> None:
    """Validate and commit the differing rows, or all expected rows where nothing was compared."""
    table = writer.catalog.graph.declarations[writer.step.table]
    assert isinstance(table, Table)
    if differing is None:
        writer.validate(table, expected)
        writer.tables.overwrite(expected, writer.make_target(table), writer.make_commit(table, counts))
        return
    if counts["written"] or counts.get("deleted"):
        upserts = differing.where(f"NOT `{_DELETE}`")
        writer.validate(table, upserts, lambda target: transforms.anti_join(target, differing, key))
    writer.tables.merge(differing, writer.make_target(table), writer.make_commit(table, counts), key, "", _DELETE)


def _select_passing_rows(table: Table, staged: DataFrame, rule_counts: RuleCounts) -> DataFrame:
    """Return the rows that no rule quarantines. Without rejects there is no filter to compute."""
    return row_rules.select_passing_rows(table, staged) if rule_counts.rejected else staged


def _select_newest_passing_rows(table: Table, staged: DataFrame, rule_counts: RuleCounts) -> DataFrame:
    rows = _select_passing_rows(table, staged, rule_counts)
    return transforms.keep_newest_of_duplicates(table, rows) if rule_counts.duplicates else rows


def _has_removed_rows(writer: TableWriter, table: Table, feed: DataFrame) -> bool:
    """Return True if rows of the incremental input were deleted or updated."""
    source = writer.catalog.get_landed_source(table)
    if source is not None and source.on_redelivery == "upsert":
        return False  # such a source never deletes rows
    return not feed.where("_change_type <> 'insert'").isEmpty()
