"""Carrying out a step: read pinned inputs, call the table's function, audit, write one commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse import delta, frames, ingest, log, quality
from lakehouse.columns import UNREADABLE
from lakehouse.declare import MALFORMED, ORIGIN_COLUMNS, Append, History, Merge, Rebuild, Replace, Source, Table
from lakehouse.definition import definition_of
from lakehouse.delta import Commit, Target
from lakehouse.errors import LandingError
from lakehouse.landing import Rejected
from lakehouse.ledger import Record, now
from lakehouse.plan import Lake, Step

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_INSERTED = ("insert", "update_postimage")
_FEED = ("_change_type", "_commit_version", "_commit_timestamp")


@dataclass(frozen=True)
class Run:
    """One run: its id, the revision of the code it runs."""

    id: str
    revision: str


@dataclass(frozen=True)
class Outcome:
    """What became of a step: rows by what happened to them, partitions replaced, files rejected."""

    rows: Mapping[str, int]
    partitions: int | None = None
    rejected_files: tuple[Rejected, ...] = ()
    warnings: Mapping[str, int] | None = None
    committed: bool = True


class Builder:
    """Writes one table, on a session of its own: what a merge sets for its commit must not reach another's."""

    def __init__(self, spark: SparkSession, lake: Lake, run: Run, step: Step) -> None:
        self.spark = spark.newSession()
        self.lake = lake
        self.run = run
        self.step = step
        self.path = lake.path(step.table)

    def carry_out(self) -> Outcome:
        declared = self.lake.graph.declared[self.step.table]
        return self._ingest(declared) if isinstance(declared, Source) else self._build(declared)

    # --- bronze ---------------------------------------------------------------------------------------------------

    def _ingest(self, source: Source) -> Outcome:
        landing = self.lake.landing(source)
        history, manifest = landing.history(), self.step.manifest
        before = 0 if manifest is None else len(manifest.rejected)
        if manifest is None:
            full = self.step.full_refresh
            if full and (problems := landing.missing(history)):
                raise LandingError(
                    f"{source.name}: a full refresh would lose rows, so nothing was done: {'; '.join(problems[:5])}"
                    f"{f' and {len(problems) - 5} more' if len(problems) > 5 else ''}. Put the files back and run again."
                )
            manifest = landing.write(self.step.batch, definition_of(source), history, self.step.files, full)
            before = 0
        manifest = landing.verified(manifest)
        rejected = manifest.rejected[before:]
        if not manifest.files:
            return Outcome({}, rejected_files=rejected, committed=False)
        rows = ingest.read_batch(self.spark, source, manifest, landing.root)
        commit = self._commit(source, {}, files=len(manifest.files))
        target = self._target(source, source.stats or ("_file_id",))
        again = {f.path for m in history for f in m.files if m.batch < manifest.batch} & {f.path for f in manifest.files}
        if manifest.full:
            delta.overwrite(rows, target, commit)
        elif source.relanded == "replace" and again:
            paths = ", ".join("'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'" for path in sorted(again))
            self._replace_deliveries(rows, target, commit, paths)
        else:
            delta.append(rows, target, commit)
        return Outcome({"written": delta.rows_written(target)}, rejected_files=rejected)

    def _replace_deliveries(self, rows: DataFrame, target: Target, commit: Commit, paths: str) -> None:
        """Put a batch in the place of its files' earlier deliveries: the predicate covers both, and no other rows."""
        batch = commit.record.batch
        predicate = f"_source_file IN ({paths}) OR _batch_id = {batch}"
        delta.replace(rows, target, commit, predicate)

    # --- tables ---------------------------------------------------------------------------------------------------

    def _build(self, table: Table) -> Outcome:
        if isinstance(table.write, Replace | Rebuild):
            return self._build_whole(table)
        if isinstance(table.write, History):
            return self._build_history(table)
        if self.step.action == "build":
            return self._build_keyed_anew(table)
        return self._build_keyed_change(table)

    def _build_whole(self, table: Table) -> Outcome:
        """Rebuild, and replace by partition: the function's output takes the place of what was there."""
        spans = self._spans(table)
        inputs = {name: self._whole_input(table, name, spans) for name in table.inputs}
        staged = self._called(table, inputs)
        if spans is not None:
            assert isinstance(table.write, Replace)
            staged = staged.where(frames.within(table.write.partition, spans))
        counted, staged = self._audited_whole(table, staged)
        target = self._target(table, self._stats(table))
        commit = self._commit(table, counted)
        rows = staged.select(*table.columns)
        if spans is None:
            delta.overwrite(rows, target, commit)
        else:
            assert isinstance(table.write, Replace)
            delta.replace(rows, target, commit, frames.within(table.write.partition, spans))
        staged.unpersist()
        partitions = None if self.step.partitions is None else len(self.step.partitions)
        return Outcome({**counted, "written": delta.rows_written(target)}, partitions)

    def _audited_whole(self, table: Table, staged: DataFrame) -> tuple[dict[str, int], DataFrame]:
        if not table.rules and UNREADABLE not in staged.columns:
            return {}, staged
        staged = staged.persist()
        counted = quality.audit(replace(table, key=()), staged)
        quality.refuse_failures(table, counted)
        if counted.rejected:
            self._quarantine(table, quality.quarantined(table, staged, None))
            staged = staged.where(~quality.rejecting(table, staged))
        return {"quarantined": counted.rejected}, staged

    def _build_keyed_anew(self, table: Table) -> Outcome:
        """Append and merge, first build: nothing to compare with, so the batch is never held, only passed over twice."""
        driver = self._driver(table)
        landed = self.lake.landed_driver(table) is not None
        staged, malformed, rows_in = self._staged(table, driver)
        counted = quality.audit(table, staged) if table.key or table.rules or landed else None
        counts = self._account(table, counted, malformed, rows_in() if landed else None)
        self._set_aside(table, counted, malformed, staged, driver)
        rows = staged.where(~quality.rejecting(table, staged)) if counted and counted.rejected else staged
        if counts.get("superseded"):
            rows = _newest_of_doubled(table, rows)
        target = self._target(table, self._stats(table))
        delta.overwrite(rows.select(*self._written(table, rows)), target, self._commit(table, counts))
        written = delta.rows_written(target)
        if counted is not None and written != counts["written"]:
            quality.check_accounting(table.name, counted.rows, {**counts, "written": written})
        return Outcome({**counts, "written": written}, warnings=self._warnings(table, counted))

    def _build_keyed_change(self, table: Table) -> Outcome:
        """Append and merge, changed rows: held while they are compared with what the table has."""
        one = next(iter(table.drivers.values()))
        feed = delta.changes(self.spark, self.lake.path(one.table), self.step.since[one.table], self.step.inputs[one.table].version)
        gone = self._gone(table, feed) if isinstance(table.write, Merge) else None
        if gone is not None and self.lake.landed_driver(table):
            # Landed rows were withdrawn: what an earlier delivery said of their keys counts again.
            return self._build_keyed_anew(table)
        inserted = feed.where(F.col("_change_type").isin(*_INSERTED)).drop(*_FEED)
        staged, malformed, rows_in = self._staged(table, inserted)
        staged = staged.persist()
        try:
            counted = quality.audit(table, staged)
            arrived = rows_in() if self.lake.landed_driver(table) else None
            if isinstance(table.write, Merge):
                deleted = None if gone is None else self._deleted_keys(table, feed)
                return self._merge(table, staged, inserted, deleted, counted, malformed, arrived)
            counts = self._account(table, counted, malformed, arrived)
            self._set_aside(table, counted, malformed, staged, inserted)
            good = staged.where(~quality.rejecting(table, staged))
            target = self._target(table, self._stats(table))
            delta.append(good.select(*self._written(table, good)), target, self._commit(table, counts))
            return Outcome(counts, warnings=self._warnings(table, counted))
        finally:
            staged.unpersist()

    def _merge(
        self, table: Table, staged: DataFrame, inserted: DataFrame, deleted: DataFrame | None, counted: quality.Audit,
        malformed: int, rows_in: int | None,
    ) -> Outcome:  # fmt: skip
        prune = _prune(table, counted) if deleted is None else ""
        good = staged.where(~quality.rejecting(table, staged))
        newest = frames.newest(table, good)
        existing = delta.read_latest(self.spark, self.path).alias("t")
        if prune:
            existing = existing.where(prune)
        classed = classed(table, newest, existing, self._written(table, newest)).persist()
        try:
            found = {row["_class"]: int(row["count"]) for row in classed.groupBy("_class").count().collect()}
            new, newer = found.get("new", 0), found.get("newer", 0)
            superseded = counted.duplicates + found.get("older", 0)
            counts = {"written": new + newer, "unchanged": found.get("same", 0), "superseded": superseded}
            counts["quarantined"] = counted.rejected + malformed
            if rows_in is not None:
                quality.check_accounting(table.name, rows_in, counts)
            self._set_aside(table, counted, malformed, staged, inserted)
            target = self._target(table, self._stats(table))
            columns = self._written(table, newest)
            if deleted is not None:
                deleted = deleted.persist()
                rows = classed.where(F.col("_class").isin("new", "newer")).select(*columns, F.lit(False).alias("_delete"))
                stay = rows.join(deleted, list(table.key), "left_anti")
                commit = self._commit(table, {**counts, "deleted": deleted.count()})
                both = stay.unionByName(deleted, allowMissingColumns=True)
                delta.merge(self.spark, both, target, commit, table.key, prune, "_delete")
                deleted.unpersist()
            elif newer:
                rows = classed.where(F.col("_class").isin("new", "newer")).select(*columns)
                delta.merge(self.spark, rows, target, self._commit(table, counts), table.key, prune, None)
            else:
                rows = classed.where("_class = 'new'").select(*columns)
                delta.append(rows, target, self._commit(table, counts))
            return Outcome(counts, warnings=self._warnings(table, counted))
        finally:
            classed.unpersist()

    def _gone(self, table: Table, feed: DataFrame) -> DataFrame | None:
        """The rows that left the driver, or stand there otherwise now; None where there are none."""
        source = self.lake.landed_driver(table)
        if source is not None and source.relanded == "upsert":
            return None  # nothing ever leaves such a table
        gone = feed.where(~F.col("_change_type").isin(*_INSERTED))
        return None if gone.isEmpty() else gone

    def _deleted_keys(self, table: Table, feed: DataFrame) -> DataFrame:
        """The keys whose last change in the feed took them away."""
        arrived = F.col("_change_type").isin(*_INSERTED)
        keyed = []
        for rows, stays in ((feed.where(arrived), 1), (feed.where(~arrived), 0)):
            for version in [row[0] for row in rows.select("_commit_version").distinct().collect()]:
                part = rows.where(F.col("_commit_version") == version).drop(*_FEED)
                called = self._called(table, self._inputs_with(table, part))
                last = F.struct(F.lit(version).alias("version"), F.lit(stays).alias("stays")).alias("last")
                keyed.append(called.select(*table.key, last))
        every = keyed[0]
        for one in keyed[1:]:
            every = every.unionByName(one)
        last = every.groupBy(*table.key).agg(F.max("last").alias("last")).where("last.stays = 0")
        return last.select(*table.key, F.lit(True).alias("_delete"))

    def _build_history(self, table: Table) -> Outcome:
        """Type 2: the versions that all observations ever made tell; what differs from the table is merged into it."""
        driver = self._driver(table)
        staged, malformed, rows_in = self._staged(table, driver)
        staged = staged.persist()
        try:
            assert isinstance(table.write, History)
            counted = quality.audit(replace(table, key=(*table.key, table.write.effective)), staged)
            told = frames.versions(table, staged.where(~quality.rejecting(table, staged)))
            told = told.select(*self._written(table, told)).persist()
            found = told.count()
            unchanged = counted.rows - counted.rejected - counted.duplicates - found
            counts = {"written": found, "unchanged": unchanged, "superseded": counted.duplicates}
            counts["quarantined"] = counted.rejected + malformed
            if self.lake.landed_driver(table):
                quality.check_accounting(table.name, rows_in(), counts)
            self._set_aside(table, counted, malformed, staged, driver)
            target, commit = self._target(table, self._stats(table)), self._commit(table, counts)
            if self.step.action == "build":
                delta.overwrite(told, target, commit)
            else:
                key = (*table.key, "valid_from")
                differing = frames.differences(told, delta.read_latest(self.spark, self.path), key, "_delete")
                delta.merge(self.spark, differing, target, commit, key, "", "_delete")
            told.unpersist()
            return Outcome(counts, warnings=self._warnings(table, counted))
        finally:
            staged.unpersist()

    # --- inputs ---------------------------------------------------------------------------------------------------

    def _snapshot(self, name: str) -> DataFrame:
        return delta.read(self.spark, self.lake.path(name), self.step.inputs[name].version)

    def _driver(self, table: Table) -> DataFrame:
        return self._snapshot(next(iter(table.drivers.values())).table)

    def _whole_input(self, table: Table, name: str, spans: list | None) -> DataFrame:  # type: ignore[type-arg]
        one = table.inputs[name]
        rows = self._snapshot(one.table)
        if spans is None or one.by is None:
            return rows
        return rows.where(frames.within(one.by, spans, one.context_days))

    def _inputs_with(self, table: Table, driver: DataFrame) -> dict[str, DataFrame]:
        return {name: driver if one.role == "driver" else self._snapshot(one.table) for name, one in table.inputs.items()}

    def _spans(self, table: Table) -> list | None:  # type: ignore[type-arg]
        if self.step.action == "build" or self.step.partitions is None or not isinstance(table.write, Replace):
            return None
        return frames.spans(self.step.partitions, table.write)

    def _called(self, table: Table, inputs: Mapping[str, DataFrame]) -> DataFrame:
        extra = [UNREADABLE, *(ORIGIN_COLUMNS if self.lake.landed_driver(table) else ())]
        return frames.checked(table.name, table.columns, extra, table(**inputs))

    def _staged(self, table: Table, driver: DataFrame, keep: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
        """The function's output for the driver's well-formed rows, the count of the others, and of all (once counted)."""
        from pyspark.sql import Observation

        malformed = 0
        if MALFORMED in driver.columns:
            malformed = driver.where(F.col(MALFORMED).isNotNull()).count()
        whole = driver.where(F.col(MALFORMED).isNull()) if malformed else driver
        observed = Observation("in")
        staged = self._called(table, self._inputs_with(table, whole.observe(observed, F.count(F.lit(1)).alias("rows"))))
        return staged, malformed, lambda: int(observed.get.get("rows") or 0) + malformed

    # --- quality and commit -----------------------------------------------------------------------------------------

    def _account(self, table: Table, counted: quality.Audit | None, malformed: int, rows_in: int | None) -> dict[str, int]:
        if counted is None:
            return {}
        superseded = counted.duplicates if isinstance(table.write, Merge) else 0
        written = counted.rows - counted.rejected - superseded
        counts = {"written": written, "unchanged": 0, "superseded": superseded, "quarantined": counted.rejected + malformed}
        if rows_in is not None:
            quality.check_accounting(table.name, rows_in, counts)
        return counts

    def _set_aside(self, table: Table, counted: quality.Audit | None, malformed: int, staged: DataFrame, driver: DataFrame) -> None:
        """Refuse the batch or write its rejects: before the table, so that none is lost; a retry replaces them."""
        if counted is None:
            return
        quality.refuse_failures(table, counted)
        landed = driver if self.lake.landed_driver(table) else None
        parts = []
        if counted.rejected:
            parts.append(quality.quarantined(table, staged, landed))
        if malformed:
            bad = driver.where(F.col(MALFORMED).isNotNull()).withColumn("rules", F.array(F.lit(quality.MALFORMED_RULE)))
            parts.append(quality.originals(bad, driver.columns))
        if not parts and self._left_rejects(table):
            parts.append(quality.quarantined(table, staged.limit(0), landed))
        if parts:
            self._quarantine(table, parts[0] if len(parts) == 1 else parts[0].unionByName(parts[1]))

    def _left_rejects(self, table: Table) -> bool:
        """Whether an attempt at this batch that did not reach its commit left rejects behind."""
        record = log.last_record(self.lake.quarantine(table.name))
        return record is not None and record.batch == self.step.batch

    def _quarantine(self, table: Table, rows: DataFrame) -> None:
        commit = self._commit(table, {})
        record = commit.record
        named = rows.withColumns(
            {
                "batch": F.lit(record.batch).cast("bigint"),
                "generation": F.lit(record.generation).cast("bigint"),
                "run": F.lit(record.run),
                "quarantined_at": F.lit(datetime.fromisoformat(record.at)),
            }
        ).select(*quality.QUARANTINE_COLUMNS)
        target = Target(f"the quarantine of {table.name}", self.lake.quarantine(table.name), ("batch",), change_feed=False)
        delta.replace(named, target, commit, f"batch = {record.batch}", fenced=False)

    def _warnings(self, table: Table, counted: quality.Audit | None) -> dict[str, int]:
        warned = {rule.name for rule in table.rules if rule.on_breach == "warn"}
        return {name: count for name, count in (counted.broken if counted else {}).items() if name in warned}

    def _written(self, table: Table, rows: DataFrame) -> list[str]:
        return [c for c in self.lake.written_columns(table.name) if c in rows.columns]

    def _stats(self, table: Table) -> tuple[str, ...]:
        partition = (table.write.partition,) if isinstance(table.write, Replace) else ()
        return tuple(dict.fromkeys((*table.key, *partition, *table.stats)))

    def _target(self, declared: Source | Table, stats: tuple[str, ...]) -> Target:
        return Target(declared.name, self.path, stats, self.lake.read_changes_of(declared.name))

    def _commit(self, declared: Source | Table, rows: Mapping[str, int], files: int = 0) -> Commit:
        record = Record(
            run=self.run.id, batch=self.step.batch, generation=self.step.generation, inputs=self.step.inputs, rows=rows,
            revision=self.run.revision, definition=definition_of(declared), at=now(), files=files,
        )  # fmt: skip
        return Commit(declared.name, record)


def _newest_of_doubled(table: Table, rows: DataFrame) -> DataFrame:
    """One row for each key, at the cost of ordering only the keys that come more than once."""
    doubled = rows.groupBy(*table.key).count().where("count > 1").drop("count")
    key = list(table.key)
    alone = rows.join(F.broadcast(doubled), key, "left_anti")
    return alone.unionByName(frames.newest(table, rows.join(F.broadcast(doubled), key, "left_semi")))


def _prune(table: Table, counted: quality.Audit) -> str:
    """A condition on the target (alias t) that every row with one of the batch's keys meets: files outside are skipped."""
    ranges = ((c, table.columns[c], *counted.key_range[c]) for c in table.key if c in counted.key_range)
    return " AND ".join(f"t.`{c}` BETWEEN CAST('{low}' AS {kind}) AND CAST('{high}' AS {kind})" for c, kind, low, high in ranges)


def classed(
    table: Table, newest: DataFrame, existing: DataFrame, columns: list[str], ignored: tuple[str, ...] = ()
) -> DataFrame:
    """The batch's rows, each with how it stands to the table's row of the same key: new, newer, same or older.

    A difference in the ``ignored`` columns alone is none.
    """
    content = [c for c in table.columns if c not in (*table.key, *ignored)]
    batch, there = newest.alias("s"), existing.alias("t")
    matched = [F.col(f"s.{c}") == F.col(f"t.{c}") for c in table.key]
    orders = [c for c in (*(table.write.newest_by if isinstance(table.write, Merge) else ()), *ORIGIN_COLUMNS) if c in columns]
    ours, theirs = F.struct(*[F.col(f"s.{c}") for c in orders]), F.struct(*[F.col(f"t.{c}") for c in orders])
    older = (ours <= theirs) if orders else F.lit(False)
    stands = (
        F.when(F.col(f"t.{table.key[0]}").isNull(), "new")
        .when(frames.same_content(content, "s", "t"), "same")
        .when(older, "older")
        .otherwise("newer")
    )
    joined = batch.join(there, matched, "left")
    return joined.select(*[F.col(f"s.{c}").alias(c) for c in columns], stands.alias("_class"))
