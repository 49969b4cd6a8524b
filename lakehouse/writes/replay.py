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
from lakehouse.plan.planner import decide
from lakehouse.plan.schema_diff import Changes
from lakehouse.plan.steps import Build, Request, Update
from lakehouse.quality import quarantine
from lakehouse.writes import audit, transforms
from lakehouse.writes import rules as row_rules
from lakehouse.writes.executor import carry_out
from lakehouse.writes.table_writer import Work

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lakehouse.deltalog.commit_record import Record, Run
    from lakehouse.engine.base import Engine

# How a reject that passes now stands to the table, and what becomes of it.
WRITTEN = ("new", "newer")
DISCARDED = {
    "older": "the table has a newer row of its key",
    "doubled": "a newer reject of its key was replayed",
    "gone": "its file was delivered again without it",
}


@dataclass(frozen=True)
class Replayed:
    """What a replay did, or would do: rejects replayed, discarded by reason, and those that still wait by the rules they break."""

    table: str
    replayed: int = 0
    discarded: dict[str, int] | None = None
    waits: dict[str, int] | None = None
    made_anew: bool = False


def replay(engine: Engine, lake: Lake, name: str, run: Run, *, dry: bool = False) -> Replayed:
    """Replay a table's rejects; ``dry`` writes nothing.

    Raises:
        DeclarationError: there is no such table.
        LedgerError: the table has not been written yet.
    """
    waiting = quarantine.waiting(lake, name)
    table, record = lake.graph.declared[name], table_log.last_record(lake.path(name))
    assert isinstance(table, Table)
    if record is None:
        raise LedgerError(f"{name} has not been written yet: run `lakehouse run` first.")
    if not waiting:
        return Replayed(name)
    if table.write.is_append_only and lake.landed_driver(table) is None:
        raise LedgerError(
            f"{name} cannot be made anew without losing what its driver no longer has: replay what {name} reads."
        )
    if lake.landed_driver(table) is None or table.write.reads_all_rows:
        return _made_anew(engine, lake, table, run, len(waiting), dry)
    now = decide(lake, name, Request())
    if now.is_breaking or isinstance(now, Build):
        raise SchemaError(
            f"{name} is to be made anew ({'; '.join((*now.changes.describe(), *now.reasons))}): run `lakehouse run`, with --full-refresh where "
            "its columns changed. That goes through its rejects, too."
        )
    inputs = {
        **now.inputs,
        table.driver: record.inputs[table.driver],
    }  # look-ups as they are now: they may be what was mended
    step = Update(
        table=name,
        reasons=("replay",),
        inputs=inputs,
        batch=record.batch + 1,
        generation=record.generation,
        changes=Changes(added=now.changes.added),
    )
    return _Rows(Work(engine, lake, run, step), table).replay(dry)


def _made_anew(engine: Engine, lake: Lake, table: Table, run: Run, waiting: int, dry: bool) -> Replayed:
    """Work the table out anew: it holds what passes now, and its new generation's quarantine what does not."""
    if dry:
        return Replayed(table.name, waiting, made_anew=True)
    work = Work(engine, lake, run, decide(lake, table.name, Request(full_refresh=frozenset({table.name}))))
    still = int(carry_out(work).rows.get("quarantined", 0))
    if lake.landed_driver(table):
        _settle_taken(work, table, work.step.generation - 1)
    return Replayed(table.name, max(waiting - still, 0), None, {"its rules": still} if still else None, made_anew=True)


def _settle_taken(work: Work, table: Table, generation: int) -> None:
    """Put on record that landed rows which waited before a table was made anew are not set aside any more."""
    record = table_log.last_record(work.path)
    assert record is not None
    aside = work.tables.read_latest(work.lake.quarantine(table.name))
    waited = work.unsettled(table, aside.where(f"generation = {generation}")).select(*ORIGIN_COLUMNS).distinct()
    still = aside.where(f"generation = {record.generation}")
    taken = transforms.without(waited, still, ORIGIN_COLUMNS).withColumn("_class", F.lit("anew"))
    _settle(work, table, taken, replace(record, generation=generation))


@dataclass(frozen=True)
class _Rows:
    """The rejects of a table that takes landed rows one by one."""

    work: Work
    table: Table

    def replay(self, dry: bool) -> Replayed:
        landed = self._landed().persist()
        staged = self.work.staged(self.table, landed).persist()
        placed = self._placed(row_rules.good(self.table, staged, "fail")).persist()
        try:
            self._check(landed, staged)
            found = {row["_class"]: int(row["count"]) for row in placed.groupBy("_class").count().collect()}
            waits = self._still_waiting(landed, staged)
            if not dry:
                self._write(placed, found, sum(waits.values()))
        finally:
            for frame in (placed, staged, landed):
                frame.unpersist()
        discarded = {DISCARDED[kind]: count for kind, count in found.items() if kind in DISCARDED}
        return Replayed(self.table.name, sum(found.values()) - sum(discarded.values()), discarded, waits)

    def _check(self, landed: DataFrame, staged: DataFrame) -> None:
        """Check that each landed row is one of the staged rows, as for a batch that a run takes in."""
        whole = landed.where(F.col(MALFORMED).isNull()) if MALFORMED in landed.columns else landed
        counts = [F.count(F.lit(1)).alias("rows"), audit.origins()]
        came_in, went_out = (frame.agg(*counts).collect()[0] for frame in (whole, staged))
        audit.check_accounting(self.table.name, came_in["rows"], {"staged": went_out["rows"]})
        audit.check_origins(self.table.name, came_in["origins"], went_out["origins"])

    def _landed(self) -> DataFrame:
        """The rejects that wait, as they were landed."""
        work, name = self.work, self.table.name
        driver = work.lake.log(self.table.driver)
        assert driver is not None
        columns = {**driver.columns(), **work.lake.written_columns(self.table.driver)}  # also what its contract added
        rows = work.tables.read_latest(work.lake.quarantine(name))
        rows = rows.where(f"generation = {work.step.generation} AND batch < {work.step.batch}")
        rows = work.unsettled(self.table, rows)
        schema = ", ".join(f"`{c}` {kind}" for c, kind in columns.items())
        return rows.dropDuplicates([*ORIGIN_COLUMNS]).select(F.from_json("original", schema).alias("_")).select("_.*")

    def _still_waiting(self, landed: DataFrame, staged: DataFrame) -> dict[str, int]:
        """The rejects that do not pass, by the first rule that they break."""
        rules = row_rules.rules_broken(self.table, staged, "fail")
        broken = staged.where(row_rules.rejecting(self.table, staged, "fail")).groupBy(rules[0].alias("rule")).count()
        waits = {str(row["rule"]): int(row["count"]) for row in broken.collect()}
        malformed = landed.where(F.col(MALFORMED).isNotNull()).count() if MALFORMED in landed.columns else 0
        return {**waits, **({MALFORMED_RULE: malformed} if malformed else {})}

    def _placed(self, good: DataFrame) -> DataFrame:
        """The rejects that pass, and how each stands to the table and to the others (`_class`)."""
        work, table = self.work, self.table
        good = good.select(*work.written_columns(good))
        there = work.tables.read_latest(work.path)
        there = there.withColumns({c: F.lit(None).cast(kind) for c, kind in work.step.changes.added.items()})
        driver = work.tables.read(work.lake.path(self.table.driver), work.step.inputs[self.table.driver].version)
        origins = [*ORIGIN_COLUMNS]
        landed = good.join(driver.select(origins), origins, "left_semi")
        gone = good.join(driver.select(origins), origins, "left_anti").withColumn("_class", F.lit("gone"))
        if table.write.is_append_only:
            stands = landed.withColumn("_class", F.lit("new"))
        else:
            newest = transforms.newest(table, landed)
            doubled = landed.join(newest.select(origins), origins, "left_anti").withColumn("_class", F.lit("doubled"))
            stands = transforms.classed(table, newest, there, newest.columns).unionByName(doubled)
        # A replay that was cut short after its commit left its rows in the table.
        own = there.select(*origins, F.lit("own").alias("_own"))
        stands = stands.join(own, origins, "left").withColumn("_class", F.coalesce("_own", "_class"))
        return stands.select(*gone.columns).unionByName(gone)

    def _write(self, placed: DataFrame, found: dict[str, int], waits: int) -> None:
        """The rows that the table takes, in one commit, then what became of each."""
        work, table = self.work, self.table
        written = sum(found.get(kind, 0) for kind in WRITTEN)
        counts = {
            "replayed": sum(found.values()) + waits, "written": written, "unchanged": found.get("same", 0),
            "superseded": sum(found.get(kind, 0) for kind in DISCARDED), "quarantined": waits,
        }  # fmt: skip
        commit = work.commit(table, counts)
        if not found:
            return
        work.clear_left_rejects(table)  # of a batch that was not committed, whose number this commit takes
        work.tables.prepare(work.target(table), work.step.changes.added)
        rows = placed.where(F.col("_class").isin(*WRITTEN)).drop("_class")
        if written:
            key = () if table.write.is_append_only else table.key
            work.validate(table, rows, lambda there: transforms.without(there, rows, key) if key else there)
        if found.get("newer"):
            work.tables.merge(rows, work.target(table), commit, table.key, "", None)
        else:  # also where there are no rows: what was found is on record
            work.tables.append(rows, work.target(table), commit)
        _settle(work, table, placed, commit.record)


def _settle(work: Work, table: Table, placed: DataFrame, record: Record) -> None:
    """Put what became of each on record, which the commit with this record made of it."""
    reason = F.lit("")
    for kind, text in (*DISCARDED.items(), ("anew", "the table was made anew")):
        reason = F.when(F.col("_class") == kind, text).otherwise(reason)
    values = {
        "generation": F.lit(record.generation).cast("bigint"), "batch": F.lit(record.batch).cast("bigint"),
        "outcome": F.when(F.col("_class").isin(*DISCARDED), "discarded").otherwise("replayed"),
        "reason": reason, "run": F.lit(record.run), "at": F.lit(datetime.fromisoformat(record.at)),
    }  # fmt: skip
    target = Target(f"the outcomes of {table.name}", work.lake.outcomes(table.name), change_feed=False)
    named = placed.withColumns(values).select(*quarantine.OUTCOME_COLUMNS)
    work.tables.append(named, target, Commit(f"outcomes/{table.name}", record, work.run.hold.fence()))
