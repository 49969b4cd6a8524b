"""Append, merge and history: tables whose rows come from their driver's rows one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse import delta, frames, quality
from lakehouse.declare import Append, History, Merge, Table
from lakehouse.quality import Audit
from lakehouse.work import Batch, Outcome, Work

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ARRIVED = ("insert", "update_postimage")
_FEED = ("_change_type", "_commit_version", "_commit_timestamp")
_DELETE = "_delete"


def build(work: Work, table: Table) -> Outcome:
    """Carry out the step."""
    if isinstance(table.write, History):
        return _history(work, table)
    if work.step.action == "build":
        return _anew(work, table)
    if isinstance(table.write, Append):
        return _append(work, table)
    return _merge(work, table)


def _anew(work: Work, table: Table) -> Outcome:
    """Append and merge from a whole driver: nothing to compare with, so the batch is passed over twice, never held."""
    driver = work.snapshot(_driver(table))
    batch = work.batch(table, driver)
    counted = quality.audit(table, batch.staged, doubled=isinstance(table.write, Merge))
    written = counted.rows - counted.rejected - counted.doubled
    counts = {"written": written, "unchanged": 0, "superseded": counted.doubled, "quarantined": counted.rejected}
    counts = work.account(table, batch, counts)
    work.set_aside(table, counted, batch)
    rows = _good(table, work.batch(table, driver).staged, counted)
    if counted.doubled:
        rows = frames.newest_of_doubled(table, rows)
    target = work.target(table)
    delta.overwrite(rows.select(*work.written_columns(rows)), target, work.commit(table, counts))
    quality.check_written(table.name, written, delta.rows_written(target))
    return Outcome(counts, warnings=quality.warnings(table, counted))


def _append(work: Work, table: Table) -> Outcome:
    """The rows that were added to the driver."""
    feed = work.changes(_driver(table))
    batch = work.batch(table, feed.where("_change_type = 'insert'").drop(*_FEED))
    counted = quality.audit(table, batch.staged, doubled=False)
    written = counted.rows - counted.rejected
    counts = work.account(
        table, batch, {"written": written, "unchanged": 0, "superseded": 0, "quarantined": counted.rejected}
    )
    work.set_aside(table, counted, batch)
    rows = _good(table, work.batch(table, batch.driver).staged, counted)
    delta.append(rows.select(*work.written_columns(rows)), work.target(table), work.commit(table, counts))
    return Outcome(counts, warnings=quality.warnings(table, counted))


def _merge(work: Work, table: Table) -> Outcome:
    """The driver's changed rows, held while they are compared with the table's rows of the same keys."""
    feed = work.changes(_driver(table))
    gone = _has_gone(work, table, feed)
    if gone and work.lake.landed_driver(table):
        # Landed rows were withdrawn: what an earlier delivery said of their keys counts again.
        return _anew(work, table)
    batch = work.batch(table, feed.where(F.col("_change_type").isin(*_ARRIVED)).drop(*_FEED))
    batch = replace(batch, staged=batch.staged.persist())
    try:
        counted = quality.audit(table, batch.staged)
        deleted = _deleted_keys(work, table, feed).persist() if gone else None
        return _merge_batch(work, table, batch, counted, deleted)
    finally:
        batch.staged.unpersist()


def _merge_batch(work: Work, table: Table, batch: Batch, counted: Audit, deleted: DataFrame | None) -> Outcome:
    prune = "" if deleted is not None else frames.key_range(table, counted.key_range)
    newest = _good(table, batch.staged, counted)
    if counted.doubled:
        newest = frames.newest(table, newest)
    columns = work.written_columns(newest)
    there = delta.read_latest(work.spark, work.path).alias("t")
    held = frames.classed(table, newest, there.where(prune) if prune else there, columns).persist()
    try:
        found = {row["_class"]: int(row["count"]) for row in held.groupBy("_class").count().collect()}
        counts = {
            "written": found.get("new", 0) + found.get("newer", 0),
            "unchanged": found.get("same", 0),
            "superseded": counted.doubled + found.get("older", 0),
            "quarantined": counted.rejected,
        }
        counts = work.account(table, batch, counts)
        work.set_aside(table, counted, batch)
        rows = held.where(F.col("_class").isin("new", "newer")).select(*columns)
        target = work.target(table)
        if deleted is not None:
            counts["deleted"] = deleted.count()
            rows = rows.join(deleted, list(table.key), "left_anti").withColumn(_DELETE, F.lit(False))
            rows = rows.unionByName(deleted, allowMissingColumns=True)
            delta.merge(work.spark, rows, target, work.commit(table, counts), table.key, prune, _DELETE)
        elif found.get("newer"):
            delta.merge(work.spark, rows, target, work.commit(table, counts), table.key, prune, None)
        else:
            delta.append(rows, target, work.commit(table, counts))
        return Outcome(counts, warnings=quality.warnings(table, counted))
    finally:
        held.unpersist()


def _history(work: Work, table: Table) -> Outcome:
    """Type 2: the versions that all observations ever made tell; what differs from the table is merged into it."""
    batch = work.batch(table, work.snapshot(_driver(table)))
    batch = replace(batch, staged=batch.staged.persist())
    assert isinstance(table.write, History)
    try:
        counted = quality.audit(replace(table, key=(*table.key, table.write.effective)), batch.staged)
        told = frames.versions(table, _good(table, batch.staged, counted))
        told = told.select(*work.written_columns(told)).persist()
        found = told.count()
        unchanged = counted.rows - counted.rejected - counted.doubled - found
        counts = {"written": found, "unchanged": unchanged, "superseded": counted.doubled}
        counts = work.account(table, batch, {**counts, "quarantined": counted.rejected})
        work.set_aside(table, counted, batch)
        target, commit = work.target(table), work.commit(table, counts)
        if work.step.action == "build":
            delta.overwrite(told, target, commit)
        else:
            key = (*table.key, "valid_from")
            differing = frames.differences(told, delta.read_latest(work.spark, work.path), key, _DELETE)
            delta.merge(work.spark, differing, target, commit, key, "", _DELETE)
        told.unpersist()
        return Outcome(counts, warnings=quality.warnings(table, counted))
    finally:
        batch.staged.unpersist()


def _driver(table: Table) -> str:
    return next(iter(table.drivers.values())).table


def _good(table: Table, staged: DataFrame, counted: Audit) -> DataFrame:
    """The rows that no rule sets aside; without a filter to compute where there are none."""
    return staged.where(~quality.rejecting(table, staged)) if counted.rejected else staged


def _has_gone(work: Work, table: Table, feed: DataFrame) -> bool:
    """Whether rows left the driver, or stand there otherwise now."""
    source = work.lake.landed_driver(table)
    if source is not None and source.relanded == "upsert":
        return False  # nothing ever leaves such a table
    return not feed.where(~F.col("_change_type").isin(*_ARRIVED)).isEmpty()


def _deleted_keys(work: Work, table: Table, feed: DataFrame) -> DataFrame:
    """The keys whose last change in the feed took them away."""
    arrived = F.col("_change_type").isin(*_ARRIVED)
    keyed = []
    for rows, stays in ((feed.where(arrived), 1), (feed.where(~arrived), 0)):
        for version in [row[0] for row in rows.select("_commit_version").distinct().collect()]:
            called = work.called_on(table, rows.where(F.col("_commit_version") == version).drop(*_FEED))
            last = F.struct(F.lit(version).alias("version"), F.lit(stays).alias("stays")).alias("last")
            keyed.append(called.select(*table.key, last))
    every = keyed[0]
    for one in keyed[1:]:
        every = every.unionByName(one)
    taken = every.groupBy(*table.key).agg(F.max("last").alias("last")).where("last.stays = 0")
    return taken.select(*table.key, F.lit(True).alias(_DELETE))
