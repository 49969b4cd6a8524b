"""Replaying rejects: today's code and rules over the landed rows that were set aside, and on record what became of each.

A table that takes landed rows one by one (Append, Merge) takes those that pass now, in one commit; what a newer row of the same key
makes superfluous is discarded, on record with the reason. Any other table is made anew, as it is worked out from all of its rows.
Replaying once more finds nothing left to do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.catalog import Lake
from lakehouse.definitions.rules import MALFORMED_RULE
from lakehouse.definitions.sources import MALFORMED, ORIGIN_COLUMNS
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import table_log
from lakehouse.engine.base import Commit, Target
from lakehouse.errors import LedgerError, SchemaError
from lakehouse.plan.planner import decide_step
from lakehouse.plan.schema_diff import SchemaChanges
from lakehouse.plan.steps import Build, Request, Update
from lakehouse.quality import quarantine
from lakehouse.writes import audit, transforms
from lakehouse.writes import rules as row_rules
from lakehouse.writes.executor import execute_step
from lakehouse.writes.table_writer import TableWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lakehouse.deltalog.commit_record import Record, Run
    from lakehouse.engine.base import Engine

# How a reject that passes now stands to the table, and what becomes of it.
WRITTEN_CLASSES = ("new", "newer")
DISCARD_REASONS = {
    "older": "the table has a newer row of its key",
    "duplicate": "a newer reject of its key was replayed",
    "removed": "its file was delivered again without it",
}


@dataclass(frozen=True)
class ReplayResult:
    """What a replay did, or would do: rejects replayed, discarded by reason, and those that still wait by the rules they break."""

    table: str
    replayed: int = 0
    discarded: dict[str, int] | None = None
    blocked: dict[str, int] | None = None
    is_rebuilt: bool = False


def replay_rejects(engine: Engine, lake: Lake, name: str, run: Run, *, dry_run: bool = False) -> ReplayResult:
    """Replay a table's rejects; ``dry`` writes nothing.

    Raises:
        DeclarationError: there is no such table.
        LedgerError: the table has not been written yet.
    """
    waiting = quarantine.find_pending_rejects(lake, name)
    table, record = lake.graph.declarations[name], table_log.read_last_record(lake.path(name))
    assert isinstance(table, Table)
    if record is None:
        raise LedgerError(f"{name} has not been written yet: run `lakehouse run` first.")
    if not waiting:
        return ReplayResult(name)
    if table.write.is_append_only and lake.get_landed_source(table) is None:
        raise LedgerError(
            f"{name} cannot be made anew without losing what its driver no longer has: replay what {name} reads."
        )
    if lake.get_landed_source(table) is None or table.write.reads_all_rows:
        return _rebuild_table(engine, lake, table, run, len(waiting), dry_run)
    now = decide_step(lake, name, Request())
    if now.is_breaking or isinstance(now, Build):
        raise SchemaError(
            f"{name} is to be made anew ({'; '.join((*now.schema_changes.describe(), *now.reasons))}): run `lakehouse run`, with --full-refresh where "
            "its columns changed. That goes through its rejects, too."
        )
    inputs = {
        **now.inputs,
        table.incremental_input_table: record.inputs[table.incremental_input_table],
    }  # look-ups as they are now: they may be what was mended
    step = Update(
        table=name,
        reasons=("replay",),
        inputs=inputs,
        batch=record.batch + 1,
        generation=record.generation,
        schema_changes=SchemaChanges(added_columns=now.schema_changes.added_columns),
    )
    return _RowReplay(TableWriter(engine, lake, run, step), table).run(dry_run)


def _rebuild_table(engine: Engine, lake: Lake, table: Table, run: Run, waiting: int, dry_run: bool) -> ReplayResult:
    """Work the table out anew: it holds what passes now, and its new generation's quarantine what does not."""
    if dry_run:
        return ReplayResult(table.name, waiting, is_rebuilt=True)
    work = TableWriter(engine, lake, run, decide_step(lake, table.name, Request(full_refresh=frozenset({table.name}))))
    still = int(execute_step(work).rows.get("quarantined", 0))
    if lake.get_landed_source(table):
        _record_rebuilt(work, table, work.step.generation - 1)
    return ReplayResult(
        table.name, max(waiting - still, 0), None, {"its rules": still} if still else None, is_rebuilt=True
    )


def _record_rebuilt(work: TableWriter, table: Table, generation: int) -> None:
    """Put on record that landed rows which waited before a table was made anew are not set aside any more."""
    record = table_log.read_last_record(work.path)
    assert record is not None
    aside = work.tables.read_latest(work.lake.quarantine_path(table.name))
    waited = work.exclude_settled(table, aside.where(f"generation = {generation}")).select(*ORIGIN_COLUMNS).distinct()
    still = aside.where(f"generation = {record.generation}")
    taken = transforms.anti_join(waited, still, ORIGIN_COLUMNS).withColumn("_class", F.lit("rebuilt"))
    _record_outcomes(work, table, taken, replace(record, generation=generation))


@dataclass(frozen=True)
class _RowReplay:
    """The rejects of a table that takes landed rows one by one."""

    writer: TableWriter
    table: Table

    def run(self, dry_run: bool) -> ReplayResult:
        landed = self._read_landed().persist()
        staged = self.writer.stage(self.table, landed).persist()
        placed = self._classify(row_rules.passing_rows(self.table, staged, "fail")).persist()
        try:
            self._check_accounting(landed, staged)
            found = {row["_class"]: int(row["count"]) for row in placed.groupBy("_class").count().collect()}
            waits = self._count_blocked(landed, staged)
            if not dry_run:
                self._write(placed, found, sum(waits.values()))
        finally:
            for frame in (placed, staged, landed):
                frame.unpersist()
        discarded = {DISCARD_REASONS[kind]: count for kind, count in found.items() if kind in DISCARD_REASONS}
        return ReplayResult(self.table.name, sum(found.values()) - sum(discarded.values()), discarded, waits)

    def _check_accounting(self, landed: DataFrame, staged: DataFrame) -> None:
        """Check that each landed row is one of the staged rows, as for a batch that a run takes in."""
        whole = landed.where(F.col(MALFORMED).isNull()) if MALFORMED in landed.columns else landed
        counts = [F.count(F.lit(1)).alias("rows"), audit.hash_origins()]
        came_in, went_out = (frame.agg(*counts).collect()[0] for frame in (whole, staged))
        audit.check_accounting(self.table.name, came_in["rows"], {"staged": went_out["rows"]})
        audit.check_origins(self.table.name, came_in["origins"], went_out["origins"])

    def _read_landed(self) -> DataFrame:
        """The rejects that wait, as they were landed."""
        work, name = self.writer, self.table.name
        driver = work.lake.log(self.table.incremental_input_table)
        assert driver is not None
        columns = {
            **driver.columns(),
            **work.lake.written_columns(self.table.incremental_input_table),
        }  # also what its contract added
        rows = work.tables.read_latest(work.lake.quarantine_path(name))
        rows = rows.where(f"generation = {work.step.generation} AND batch < {work.step.batch}")
        rows = work.exclude_settled(self.table, rows)
        schema = ", ".join(f"`{c}` {kind}" for c, kind in columns.items())
        return rows.dropDuplicates([*ORIGIN_COLUMNS]).select(F.from_json("original", schema).alias("_")).select("_.*")

    def _count_blocked(self, landed: DataFrame, staged: DataFrame) -> dict[str, int]:
        """The rejects that do not pass, by the first rule that they break."""
        rules = row_rules.violated_rules(self.table, staged, "fail")
        broken = (
            staged.where(row_rules.violates_any(self.table, staged, "fail")).groupBy(rules[0].alias("rule")).count()
        )
        waits = {str(row["rule"]): int(row["count"]) for row in broken.collect()}
        malformed = landed.where(F.col(MALFORMED).isNotNull()).count() if MALFORMED in landed.columns else 0
        return {**waits, **({MALFORMED_RULE: malformed} if malformed else {})}

    def _classify(self, good: DataFrame) -> DataFrame:
        """The rejects that pass, and how each stands to the table and to the others (`_class`)."""
        work, table = self.writer, self.table
        good = good.select(*work.written_columns(good))
        there = work.tables.read_latest(work.path)
        there = there.withColumns(
            {c: F.lit(None).cast(kind) for c, kind in work.step.schema_changes.added_columns.items()}
        )
        driver = work.tables.read(
            work.lake.path(self.table.incremental_input_table),
            work.step.inputs[self.table.incremental_input_table].version,
        )
        origins = [*ORIGIN_COLUMNS]
        landed = good.join(driver.select(origins), origins, "left_semi")
        gone = good.join(driver.select(origins), origins, "left_anti").withColumn("_class", F.lit("removed"))
        if table.write.is_append_only:
            stands = landed.withColumn("_class", F.lit("new"))
        else:
            newest = transforms.newest_per_key(table, landed)
            doubled = landed.join(newest.select(origins), origins, "left_anti").withColumn("_class", F.lit("duplicate"))
            stands = transforms.classify(table, newest, there, newest.columns).unionByName(doubled)
        # A replay that was cut short after its commit left its rows in the table.
        own = there.select(*origins, F.lit("own").alias("_own"))
        stands = stands.join(own, origins, "left").withColumn("_class", F.coalesce("_own", "_class"))
        return stands.select(*gone.columns).unionByName(gone)

    def _write(self, placed: DataFrame, found: dict[str, int], blocked: int) -> None:
        """The rows that the table takes, in one commit, then what became of each."""
        work, table = self.writer, self.table
        written = sum(found.get(kind, 0) for kind in WRITTEN_CLASSES)
        counts = {
            "replayed": sum(found.values()) + blocked, "written": written, "unchanged": found.get("same", 0),
            "superseded": sum(found.get(kind, 0) for kind in DISCARD_REASONS), "quarantined": blocked,
        }  # fmt: skip
        commit = work.make_commit(table, counts)
        if not found:
            return
        work.clear_stale_rejects(table)  # of a batch that was not committed, whose number this commit takes
        work.tables.prepare(work.make_target(table), work.step.schema_changes.added_columns)
        rows = placed.where(F.col("_class").isin(*WRITTEN_CLASSES)).drop("_class")
        if written:
            key = () if table.write.is_append_only else table.key
            work.validate(table, rows, lambda there: transforms.anti_join(there, rows, key) if key else there)
        if found.get("newer"):
            work.tables.merge(rows, work.make_target(table), commit, table.key, "", None)
        else:  # also where there are no rows: what was found is on record
            work.tables.append(rows, work.make_target(table), commit)
        _record_outcomes(work, table, placed, commit.record)


def _record_outcomes(work: TableWriter, table: Table, placed: DataFrame, record: Record) -> None:
    """Put what became of each on record, which the commit with this record made of it."""
    reason = F.lit("")
    for kind, text in (*DISCARD_REASONS.items(), ("rebuilt", "the table was rebuilt")):
        reason = F.when(F.col("_class") == kind, text).otherwise(reason)
    values = {
        "generation": F.lit(record.generation).cast("bigint"), "batch": F.lit(record.batch).cast("bigint"),
        "outcome": F.when(F.col("_class").isin(*DISCARD_REASONS), "discarded").otherwise("replayed"),
        "reason": reason, "run": F.lit(record.run), "at": F.lit(datetime.fromisoformat(record.committed_at)),
    }  # fmt: skip
    target = Target(f"the outcomes of {table.name}", work.lake.outcomes_path(table.name), change_feed=False)
    named = placed.withColumns(values).select(*quarantine.OUTCOME_COLUMNS)
    work.tables.append(named, target, Commit(f"outcomes/{table.name}", record, work.run.lease.issue_fencing_token()))
