"""Append, merge and history: tables whose rows come from their driver's rows one by one."""

from __future__ import annotations

from collections.abc import Sequence
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
from lakehouse.writes.table_writer import Batch, Outcome, TableWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_FEED = ("_change_type", "_commit_version", "_commit_timestamp")
_DELETE = "_delete"


def rebuild(work: TableWriter, table: Table) -> Outcome:
    """Append and merge from a whole driver: nothing to compare with, and never held.

    First only its keys are gone through; the write then stops at a row that breaks a rule, and all is gone through with care.
    """
    try:
        return _rebuild_batch(work, table, rules=False)
    except Exception as error:
        if not row_rules.is_violation_stop(error):
            raise
    return _rebuild_batch(work, table, rules=True)


def _rebuild_batch(work: TableWriter, table: Table, *, rules: bool) -> Outcome:
    batch = work.stage_batch(table, work.read_snapshot(table.incremental_input_table))
    with work.cached_for_validation(table, batch.staged) as staged:
        return _write_rebuilt(work, table, replace(batch, staged=staged), rules)


def _write_rebuilt(work: TableWriter, table: Table, batch: Batch, rules: bool) -> Outcome:
    counted = audit.count_batch(table, batch.staged, not table.write.is_append_only, has_rules=rules)
    written = counted.rows - counted.rejected - counted.duplicates
    counts = {"written": written, "unchanged": 0, "superseded": counted.duplicates, "quarantined": counted.rejected}
    counts = work.check_counts(table, batch, counted, counts)
    work.quarantine_batch(table, counted, batch)
    rows = batch.staged
    if work.has_suite(table):
        good = row_rules.passing_rows(table, rows)
        work.validate(table, transforms.newest_of_duplicates(table, good) if counted.duplicates else good)
    if not rules:
        rows = row_rules.stop_on_violation(table, rows)
    rows = _newest_passing_rows(table, rows, counted)
    target = work.make_target(table)
    work.tables.overwrite(rows.select(*work.written_columns(rows)), target, work.make_commit(table, counts))
    audit.check_written(table.name, written, table_log.rows_written(target.path))
    if rules:
        return Outcome(counts, warnings=audit.warning_counts(table, counted))
    return Outcome(counts, warnings=row_rules.count_warnings(table, work.tables.read_latest(work.path)))


def append(work: TableWriter, table: Table) -> Outcome:
    """The rows that were added to the driver."""
    feed = work.read_changes(table.incremental_input_table)
    batch = work.stage_batch(table, feed.where("_change_type = 'insert'").drop(*_FEED))
    counted = audit.count_batch(table, batch.staged, can_have_duplicates=False)
    written = counted.rows - counted.rejected
    counts = {"written": written, "unchanged": 0, "superseded": 0, "quarantined": counted.rejected}
    counts = work.check_counts(table, batch, counted, counts)
    work.quarantine_batch(table, counted, batch)
    rows = _passing_rows(table, batch.staged, counted)
    work.validate(table, rows, lambda there: there)
    work.tables.append(
        rows.select(*work.written_columns(rows)), work.make_target(table), work.make_commit(table, counts)
    )
    return Outcome(counts, warnings=audit.warning_counts(table, counted))


def merge(work: TableWriter, table: Table) -> Outcome:
    """The driver's changed rows, held while they are compared with the table's rows of the same keys."""
    feed = work.read_changes(table.incremental_input_table)
    if _has_removed_rows(work, table, feed):
        return _merge_recomputed(work, table, feed)
    batch = work.stage_batch(table, feed.drop(*_FEED))
    batch = replace(batch, staged=batch.staged.persist())
    try:
        return _merge_batch(work, table, batch, audit.count_batch(table, batch.staged))
    finally:
        batch.staged.unpersist()


def _merge_batch(work: TableWriter, table: Table, batch: Batch, counted: RuleCounts) -> Outcome:
    prune = transforms.key_range_predicate(table, counted.key_ranges)
    newest = _passing_rows(table, batch.staged, counted)
    if counted.duplicates:
        newest = transforms.newest_per_key(table, newest)
    columns = work.written_columns(newest)
    there = work.tables.read_latest(work.path).alias("t")
    held = transforms.classify(table, newest, there.where(prune) if prune else there, columns).persist()
    try:
        found = {row["_class"]: int(row["count"]) for row in held.groupBy("_class").count().collect()}
        counts = {
            "written": found.get("new", 0) + found.get("newer", 0),
            "unchanged": found.get("same", 0),
            "superseded": counted.duplicates + found.get("older", 0),
            "quarantined": counted.rejected,
        }
        counts = work.check_counts(table, batch, counted, counts)
        work.quarantine_batch(table, counted, batch)
        rows = held.where(F.col("_class").isin("new", "newer")).select(*columns)
        if counts["written"]:
            work.validate(table, rows, lambda there: transforms.anti_join(there, rows, table.key))
        target, commit = work.make_target(table), work.make_commit(table, counts)
        if found.get("newer"):
            work.tables.merge(rows, target, commit, table.key, prune, None)
        else:
            work.tables.append(rows, target, commit)
        return Outcome(counts, warnings=audit.warning_counts(table, counted))
    finally:
        held.unpersist()


def _merge_recomputed(work: TableWriter, table: Table, feed: DataFrame) -> Outcome:
    """Rows left the driver, so what it held before of their keys counts again: its whole is asked, and the difference merged.

    A driver that is a table is asked only for the keys that its changed rows have or had.
    """
    batch = work.stage_batch(table, work.read_snapshot(table.incremental_input_table))
    staged, there = batch.staged, work.tables.read_latest(work.path)
    if work.lake.get_landed_source(table) is None:
        keys = work.apply_to(table, feed.drop(*_FEED)).select(*table.key).distinct()
        staged, there = (transforms.semi_join(rows, keys, table.key) for rows in (staged, there))
        batch = replace(batch, staged=staged)
    counted = audit.count_batch(table, staged)
    told = _newest_passing_rows(table, staged, counted)
    told = told.select(*work.written_columns(told))
    return _merge_expected(work, table, batch, counted, told, there, table.key)


def write_history(work: TableWriter, table: Table, history: History) -> Outcome:
    """Type 2: the versions that all observations ever made tell; what differs from the table is merged into it."""
    batch = work.stage_batch(table, work.read_snapshot(table.incremental_input_table))
    batch = replace(batch, staged=batch.staged.persist())
    observed = observation_table(table, history)
    try:
        counted = audit.count_batch(observed, batch.staged)
        good = _passing_rows(observed, batch.staged, counted)
        told = compute_versions(work, table, history, good, batch.input_rows)
        there = None if isinstance(work.step, Build) else work.tables.read_latest(work.path)
        return _merge_expected(work, observed, batch, counted, told, there, (*table.key, "valid_from"))
    finally:
        batch.staged.unpersist()


def observation_table(table: Table, history: History) -> Table:
    """The table as its rows are audited: by the observation, not by the version."""
    return replace(table, key=(*table.key, history.effective_column))


def compute_versions(
    work: TableWriter, table: Table, history: History, good: DataFrame, driver: DataFrame
) -> DataFrame:
    """The versions that good observations tell, as they are written; ``driver`` has those that were set aside, too."""
    if history.has_snapshots:
        told = transforms.snapshot_versions(table, history, good, work.apply_to(table, driver))
    else:
        told = transforms.versions(table, history, good)
    return told.select(*work.written_columns(told))


def _merge_expected(
    work: TableWriter,
    observed: Table,
    batch: Batch,
    counted: RuleCounts,
    expected: DataFrame,
    existing: DataFrame | None,
    key: Sequence[str],
) -> Outcome:
    """Make the table hold what is told in place of the rows ``there``, in one commit that touches only what differs.

    ``observed`` is the table as its rows were audited, ``key`` tells the rows of the table apart.
    """
    table = work.lake.graph.declarations[observed.name]
    assert isinstance(table, Table)
    expected = expected.persist()
    differing = None
    try:
        written, deleted = expected.count(), 0
        kept = counted.rows - counted.rejected - counted.duplicates
        unchanged = kept - written  # in a history, what repeats what was known adds no version
        if existing is not None:
            differing = transforms.differences(expected, existing.select(*expected.columns), key, _DELETE).persist()
            found = {row[_DELETE]: int(row["count"]) for row in differing.groupBy(_DELETE).count().collect()}
            unchanged, written, deleted = (
                unchanged + written - found.get(False, 0),
                found.get(False, 0),
                found.get(True, 0),
            )
        counts = {
            "written": written,
            "unchanged": unchanged,
            "superseded": counted.duplicates,
            "quarantined": counted.rejected,
        }
        counts = work.check_counts(observed, batch, counted, counts)
        work.quarantine_batch(observed, counted, batch, is_full_input=work.lake.get_landed_source(observed) is not None)
        counts |= {"deleted": deleted} if deleted else {}
        if differing is None:
            work.validate(table, expected)
        elif written or deleted:
            changed = differing
            work.validate(
                table, changed.where(f"NOT `{_DELETE}`"), lambda there: transforms.anti_join(there, changed, key)
            )
        target, commit = work.make_target(table), work.make_commit(table, counts)
        if differing is None:
            work.tables.overwrite(expected, target, commit)
        else:
            work.tables.merge(differing, target, commit, key, "", _DELETE)
        return Outcome(counts, warnings=audit.warning_counts(observed, counted))
    finally:
        expected.unpersist()
        if differing is not None:
            differing.unpersist()


def _passing_rows(table: Table, staged: DataFrame, counted: RuleCounts) -> DataFrame:
    """The rows that no rule sets aside; without a filter to compute where there are none."""
    return row_rules.passing_rows(table, staged) if counted.rejected else staged


def _newest_passing_rows(table: Table, staged: DataFrame, counted: RuleCounts) -> DataFrame:
    rows = _passing_rows(table, staged, counted)
    return transforms.newest_of_duplicates(table, rows) if counted.duplicates else rows


def _has_removed_rows(work: TableWriter, table: Table, feed: DataFrame) -> bool:
    """Whether rows left the driver, or stand there otherwise now."""
    source = work.lake.get_landed_source(table)
    if source is not None and source.on_redelivery == "upsert":
        return False  # nothing ever leaves such a table
    return not feed.where("_change_type <> 'insert'").isEmpty()
