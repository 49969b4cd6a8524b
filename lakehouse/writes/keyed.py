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
from lakehouse.writes.audit import Audit
from lakehouse.writes.table_writer import Batch, Outcome, Work

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_FEED = ("_change_type", "_commit_version", "_commit_timestamp")
_DELETE = "_delete"


def rebuild(work: Work, table: Table) -> Outcome:
    """Append and merge from a whole driver: nothing to compare with, and never held.

    First only its keys are gone through; the write then stops at a row that breaks a rule, and all is gone through with care.
    """
    try:
        return _write_anew(work, table, rules=False)
    except Exception as error:
        if not row_rules.stopped(error):
            raise
    return _write_anew(work, table, rules=True)


def _write_anew(work: Work, table: Table, *, rules: bool) -> Outcome:
    batch = work.batch(table, work.snapshot(table.driver))
    with work.held(table, batch.staged) as staged:
        return _write_batch_anew(work, table, replace(batch, staged=staged), rules)


def _write_batch_anew(work: Work, table: Table, batch: Batch, rules: bool) -> Outcome:
    counted = audit.audit(table, batch.staged, not table.write.is_append_only, rules=rules)
    written = counted.rows - counted.rejected - counted.doubled
    counts = {"written": written, "unchanged": 0, "superseded": counted.doubled, "quarantined": counted.rejected}
    counts = work.account(table, batch, counted, counts)
    work.set_aside(table, counted, batch)
    rows = batch.staged
    if work.has_suite(table):
        good = row_rules.good(table, rows)
        work.validate(table, transforms.newest_of_doubled(table, good) if counted.doubled else good)
    if not rules:
        rows = row_rules.guarded(table, rows)
    rows = _newest_good(table, rows, counted)
    target = work.target(table)
    work.tables.overwrite(rows.select(*work.written_columns(rows)), target, work.commit(table, counts))
    audit.check_written(table.name, written, table_log.rows_written(target.path))
    if rules:
        return Outcome(counts, warnings=audit.warnings(table, counted))
    return Outcome(counts, warnings=row_rules.warned(table, work.tables.read_latest(work.path)))


def append(work: Work, table: Table) -> Outcome:
    """The rows that were added to the driver."""
    feed = work.changes(table.driver)
    batch = work.batch(table, feed.where("_change_type = 'insert'").drop(*_FEED))
    counted = audit.audit(table, batch.staged, doubled=False)
    written = counted.rows - counted.rejected
    counts = {"written": written, "unchanged": 0, "superseded": 0, "quarantined": counted.rejected}
    counts = work.account(table, batch, counted, counts)
    work.set_aside(table, counted, batch)
    rows = _good(table, batch.staged, counted)
    work.validate(table, rows, lambda there: there)
    work.tables.append(rows.select(*work.written_columns(rows)), work.target(table), work.commit(table, counts))
    return Outcome(counts, warnings=audit.warnings(table, counted))


def merge(work: Work, table: Table) -> Outcome:
    """The driver's changed rows, held while they are compared with the table's rows of the same keys."""
    feed = work.changes(table.driver)
    if _has_gone(work, table, feed):
        return _told_anew(work, table, feed)
    batch = work.batch(table, feed.drop(*_FEED))
    batch = replace(batch, staged=batch.staged.persist())
    try:
        return _merge_batch(work, table, batch, audit.audit(table, batch.staged))
    finally:
        batch.staged.unpersist()


def _merge_batch(work: Work, table: Table, batch: Batch, counted: Audit) -> Outcome:
    prune = transforms.key_range(table, counted.key_range)
    newest = _good(table, batch.staged, counted)
    if counted.doubled:
        newest = transforms.newest(table, newest)
    columns = work.written_columns(newest)
    there = work.tables.read_latest(work.path).alias("t")
    held = transforms.classed(table, newest, there.where(prune) if prune else there, columns).persist()
    try:
        found = {row["_class"]: int(row["count"]) for row in held.groupBy("_class").count().collect()}
        counts = {
            "written": found.get("new", 0) + found.get("newer", 0),
            "unchanged": found.get("same", 0),
            "superseded": counted.doubled + found.get("older", 0),
            "quarantined": counted.rejected,
        }
        counts = work.account(table, batch, counted, counts)
        work.set_aside(table, counted, batch)
        rows = held.where(F.col("_class").isin("new", "newer")).select(*columns)
        if counts["written"]:
            work.validate(table, rows, lambda there: transforms.without(there, rows, table.key))
        target, commit = work.target(table), work.commit(table, counts)
        if found.get("newer"):
            work.tables.merge(rows, target, commit, table.key, prune, None)
        else:
            work.tables.append(rows, target, commit)
        return Outcome(counts, warnings=audit.warnings(table, counted))
    finally:
        held.unpersist()


def _told_anew(work: Work, table: Table, feed: DataFrame) -> Outcome:
    """Rows left the driver, so what it held before of their keys counts again: its whole is asked, and the difference merged.

    A driver that is a table is asked only for the keys that its changed rows have or had.
    """
    batch = work.batch(table, work.snapshot(table.driver))
    staged, there = batch.staged, work.tables.read_latest(work.path)
    if work.lake.landed_driver(table) is None:
        keys = work.called_on(table, feed.drop(*_FEED)).select(*table.key).distinct()
        staged, there = (transforms.of_keys(rows, keys, table.key) for rows in (staged, there))
        batch = replace(batch, staged=staged)
    counted = audit.audit(table, staged)
    told = _newest_good(table, staged, counted)
    told = told.select(*work.written_columns(told))
    return _merge_told(work, table, batch, counted, told, there, table.key)


def write_history(work: Work, table: Table, history: History) -> Outcome:
    """Type 2: the versions that all observations ever made tell; what differs from the table is merged into it."""
    batch = work.batch(table, work.snapshot(table.driver))
    batch = replace(batch, staged=batch.staged.persist())
    observed = observations_of(table, history)
    try:
        counted = audit.audit(observed, batch.staged)
        good = _good(observed, batch.staged, counted)
        told = versions_told(work, table, history, good, batch.driver)
        there = None if isinstance(work.step, Build) else work.tables.read_latest(work.path)
        return _merge_told(work, observed, batch, counted, told, there, (*table.key, "valid_from"))
    finally:
        batch.staged.unpersist()


def observations_of(table: Table, history: History) -> Table:
    """The table as its rows are audited: by the observation, not by the version."""
    return replace(table, key=(*table.key, history.effective))


def versions_told(work: Work, table: Table, history: History, good: DataFrame, driver: DataFrame) -> DataFrame:
    """The versions that good observations tell, as they are written; ``driver`` has those that were set aside, too."""
    if history.snapshots:
        told = transforms.snapshot_versions(table, history, good, work.called_on(table, driver))
    else:
        told = transforms.versions(table, history, good)
    return told.select(*work.written_columns(told))


def _merge_told(
    work: Work,
    observed: Table,
    batch: Batch,
    counted: Audit,
    told: DataFrame,
    there: DataFrame | None,
    key: Sequence[str],
) -> Outcome:
    """Make the table hold what is told in place of the rows ``there``, in one commit that touches only what differs.

    ``observed`` is the table as its rows were audited, ``key`` tells the rows of the table apart.
    """
    table = work.lake.graph.declared[observed.name]
    assert isinstance(table, Table)
    told = told.persist()
    differing = None
    try:
        written, deleted = told.count(), 0
        kept = counted.rows - counted.rejected - counted.doubled
        unchanged = kept - written  # in a history, what repeats what was known adds no version
        if there is not None:
            differing = transforms.differences(told, there.select(*told.columns), key, _DELETE).persist()
            found = {row[_DELETE]: int(row["count"]) for row in differing.groupBy(_DELETE).count().collect()}
            unchanged, written, deleted = (
                unchanged + written - found.get(False, 0),
                found.get(False, 0),
                found.get(True, 0),
            )
        counts = {
            "written": written,
            "unchanged": unchanged,
            "superseded": counted.doubled,
            "quarantined": counted.rejected,
        }
        counts = work.account(observed, batch, counted, counts)
        work.set_aside(observed, counted, batch, whole=work.lake.landed_driver(observed) is not None)
        counts |= {"deleted": deleted} if deleted else {}
        if differing is None:
            work.validate(table, told)
        elif written or deleted:
            changed = differing
            work.validate(
                table, changed.where(f"NOT `{_DELETE}`"), lambda there: transforms.without(there, changed, key)
            )
        target, commit = work.target(table), work.commit(table, counts)
        if differing is None:
            work.tables.overwrite(told, target, commit)
        else:
            work.tables.merge(differing, target, commit, key, "", _DELETE)
        return Outcome(counts, warnings=audit.warnings(observed, counted))
    finally:
        told.unpersist()
        if differing is not None:
            differing.unpersist()


def _good(table: Table, staged: DataFrame, counted: Audit) -> DataFrame:
    """The rows that no rule sets aside; without a filter to compute where there are none."""
    return row_rules.good(table, staged) if counted.rejected else staged


def _newest_good(table: Table, staged: DataFrame, counted: Audit) -> DataFrame:
    rows = _good(table, staged, counted)
    return transforms.newest_of_doubled(table, rows) if counted.doubled else rows


def _has_gone(work: Work, table: Table, feed: DataFrame) -> bool:
    """Whether rows left the driver, or stand there otherwise now."""
    source = work.lake.landed_driver(table)
    if source is not None and source.relanded == "upsert":
        return False  # nothing ever leaves such a table
    return not feed.where("_change_type <> 'insert'").isEmpty()
