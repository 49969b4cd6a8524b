"""Replays of rejects: today's code and rules over quarantined landed rows, with the outcome of each reject recorded.

A table that takes landed rows one by one (Append, Merge) takes the rejects that pass now, in one commit. A reject that
a newer row of its key replaces is discarded, and the reason is recorded. Any other table is rebuilt, because it is
computed from all of its rows. A second replay finds nothing left to do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.catalog import Catalog
from lakehouse.definitions.rules import MALFORMED_RULE
from lakehouse.definitions.sources import MALFORMED, ORIGIN_COLUMNS
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import table_log
from lakehouse.engine.base import Commit, Target
from lakehouse.errors import LedgerError, SchemaError
from lakehouse.plan.planner import decide_step
from lakehouse.plan.schema_diff import SchemaChanges
from lakehouse.plan.steps import Build, RunRequest, Update
from lakehouse.quality import quarantine
from lakehouse.writes import audit, transforms
from lakehouse.writes import rules as row_rules
from lakehouse.writes.executor import execute_step
from lakehouse.writes.table_writer import TableWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lakehouse.deltalog.commit_record import Record, Run
    from lakehouse.engine.base import Engine

# Classes of passing rejects that are written, and the reason recorded for each class that is discarded.
WRITTEN_CLASSES = ("new", "newer")
DISCARD_REASONS = {
    "older": "the table has a newer row of its key",
    "duplicate": "a newer reject of its key was replayed",
    "removed": "its file was delivered again without it",
}


@dataclass(frozen=True)
class ReplayResult:
    """Result of a replay, or of its dry run.

    Attributes:
        replayed: Number of rejects that pass now.
        discarded: Number of discarded rejects by reason.
        blocked: Number of rejects that still break a rule, by rule.
        is_rebuilt: True where the whole table is rebuilt.
    """

    table: str
    replayed: int = 0
    discarded: dict[str, int] | None = None
    blocked: dict[str, int] | None = None
    is_rebuilt: bool = False


def replay_rejects(engine: Engine, catalog: Catalog, name: str, run: Run, *, dry_run: bool = False) -> ReplayResult:
    """Replay a table's rejects.

    Args:
        dry_run: Count the outcomes and write nothing.

    Raises:
        DeclarationError: The table is not declared.
        LedgerError: The table has not been written yet, or cannot be rebuilt without losing rows.
        SchemaError: The next run must rebuild the table.
    """
    pending = quarantine.find_pending_rejects(catalog, name)
    table, record = catalog.graph.declarations[name], table_log.read_last_record(catalog.get_path(name))
    assert isinstance(table, Table)
    if record is None:
        raise LedgerError(f"{name}: the table has not been written yet. Run `lakehouse run` first.")
    if not pending:
        return ReplayResult(name)
    if table.write.is_append_only and catalog.get_landed_source(table) is None:
        raise LedgerError(
            f"{name}: a rebuild would lose rows that its incremental input no longer has. "
            f"Replay the inputs of {name} instead."
        )
    if catalog.get_landed_source(table) is None or table.write.reads_all_rows:
        return _rebuild_table(engine, catalog, table, run, len(pending), dry_run)
    return _RowReplay(TableWriter(engine, catalog, run, _make_step(catalog, table, record)), table).run(dry_run)


def _make_step(catalog: Catalog, table: Table, record: Record) -> Update:
    """Make the step that replays rejects into the table as its last record describes it."""
    planned = decide_step(catalog, table.name, RunRequest())
    if planned.is_breaking or isinstance(planned, Build):
        causes = "; ".join((*planned.schema_changes.describe(), *planned.reasons))
        raise SchemaError(
            f"{table.name}: rejected rows cannot be replayed, because the table must be rebuilt first ({causes}). "
            "Run `lakehouse run`, with --full-refresh if columns changed; the rebuild includes the rejected rows."
        )
    # Lookups are read at their newest version: the error that was corrected may have been in a lookup.
    incremental_input = table.incremental_input_table
    return Update(
        table=table.name,
        reasons=("replay",),
        inputs={**planned.inputs, incremental_input: record.inputs[incremental_input]},
        batch=record.batch + 1,
        generation=record.generation,
        schema_changes=SchemaChanges(added_columns=planned.schema_changes.added_columns),
    )


def _rebuild_table(
    engine: Engine, catalog: Catalog, table: Table, run: Run, pending: int, dry_run: bool
) -> ReplayResult:
    """Rebuild the table. Rows that still break a rule enter the quarantine of the new generation."""
    if dry_run:
        return ReplayResult(table.name, pending, is_rebuilt=True)
    step = decide_step(catalog, table.name, RunRequest(full_refresh=frozenset({table.name})))
    writer = TableWriter(engine, catalog, run, step)
    blocked = int(execute_step(writer).rows.get("quarantined", 0))
    if catalog.get_landed_source(table):
        _record_rebuilt(writer, table, writer.step.generation - 1)
    by_rule = {"its rules": blocked} if blocked else None
    return ReplayResult(table.name, max(pending - blocked, 0), None, by_rule, is_rebuilt=True)


def _record_rebuilt(writer: TableWriter, table: Table, generation: int) -> None:
    """Record the rejects of the generation before a rebuild that the rebuild no longer quarantines."""
    record = table_log.read_last_record(writer.path)
    assert record is not None
    rejects = writer.tables.read_latest(writer.catalog.get_quarantine_path(table.name))
    pending = writer.exclude_settled(table, rejects.where(f"generation = {generation}"))
    pending = pending.select(*ORIGIN_COLUMNS).distinct()
    blocked = rejects.where(f"generation = {record.generation}")
    rebuilt = transforms.anti_join(pending, blocked, ORIGIN_COLUMNS).withColumn("_class", F.lit("rebuilt"))
    _record_outcomes(writer, table, rebuilt, replace(record, generation=generation))


@dataclass(frozen=True)
class _RowReplay:
    """Replay of the rejects of a table that takes landed rows one by one."""

    writer: TableWriter
    table: Table

    def run(self, dry_run: bool) -> ReplayResult:
        landed = self._read_landed().persist()
        staged = self.writer.stage(self.table, landed).persist()
        classified = self._classify(row_rules.select_passing_rows(self.table, staged, "fail")).persist()
        try:
            self._check_accounting(landed, staged)
            counts = {row["_class"]: int(row["count"]) for row in classified.groupBy("_class").count().collect()}
            blocked = self._count_blocked(landed, staged)
            if not dry_run:
                self._write(classified, counts, sum(blocked.values()))
        finally:
            for frame in (classified, staged, landed):
                frame.unpersist()
        discarded = {DISCARD_REASONS[name]: count for name, count in counts.items() if name in DISCARD_REASONS}
        return ReplayResult(self.table.name, sum(counts.values()) - sum(discarded.values()), discarded, blocked)

    def _check_accounting(self, landed: DataFrame, staged: DataFrame) -> None:
        """Check that each well-formed landed row is one staged row, as in a run's batch."""
        well_formed = landed.where(F.col(MALFORMED).isNull()) if MALFORMED in landed.columns else landed
        counts = [F.count(F.lit(1)).alias("rows"), audit.hash_origins()]
        before, after = (frame.agg(*counts).collect()[0] for frame in (well_formed, staged))
        audit.check_accounting(self.table.name, before["rows"], {"staged": after["rows"]})
        audit.check_origins(self.table.name, before["origins"], after["origins"])

    def _read_landed(self) -> DataFrame:
        """Read the pending rejects in the form in which they were landed."""
        writer, source = self.writer, self.table.incremental_input_table
        log = writer.catalog.read_log(source)
        assert log is not None
        columns = {
            **log.read_columns(),
            **writer.catalog.get_written_columns(source),
        }  # with columns that the contract added
        rows = writer.tables.read_latest(writer.catalog.get_quarantine_path(self.table.name))
        rows = rows.where(f"generation = {writer.step.generation} AND batch < {writer.step.batch}")
        rows = writer.exclude_settled(self.table, rows)
        schema = ", ".join(f"`{column}` {data_type}" for column, data_type in columns.items())
        return rows.dropDuplicates([*ORIGIN_COLUMNS]).select(F.from_json("original", schema).alias("_")).select("_.*")

    def _count_blocked(self, landed: DataFrame, staged: DataFrame) -> dict[str, int]:
        """Count the rejects that do not pass, by the first rule that each breaks."""
        rules = row_rules.list_violated_rules(self.table, staged, "fail")
        violating = staged.where(row_rules.build_reject_condition(self.table, staged, "fail"))
        by_rule = violating.groupBy(rules[0].alias("rule")).count()
        blocked = {str(row["rule"]): int(row["count"]) for row in by_rule.collect()}
        malformed = landed.where(F.col(MALFORMED).isNotNull()).count() if MALFORMED in landed.columns else 0
        return {**blocked, **({MALFORMED_RULE: malformed} if malformed else {})}

    def _classify(self, passing: DataFrame) -> DataFrame:
        """Add column `_class`: how each passing reject compares to the table and to the other rejects."""
        writer, table, origins = self.writer, self.table, [*ORIGIN_COLUMNS]
        passing = passing.select(*writer.select_written_columns(passing))
        added = writer.step.schema_changes.added_columns
        existing = writer.tables.read_latest(writer.path)
        existing = existing.withColumns({column: F.lit(None).cast(kind) for column, kind in added.items()})
        landed_origins = writer.read_snapshot(table.incremental_input_table).select(origins)
        landed = passing.join(landed_origins, origins, "left_semi")
        removed = passing.join(landed_origins, origins, "left_anti").withColumn("_class", F.lit("removed"))
        if table.write.is_append_only:
            classified = landed.withColumn("_class", F.lit("new"))
        else:
            newest = transforms.keep_newest_per_key(table, landed)
            duplicates = landed.join(newest.select(origins), origins, "left_anti")
            duplicates = duplicates.withColumn("_class", F.lit("duplicate"))
            classified = transforms.classify(table, newest, existing, newest.columns).unionByName(duplicates)
        # A replay that stopped after its commit left its rows in the table.
        own = existing.select(*origins, F.lit("own").alias("_own"))
        classified = classified.join(own, origins, "left").withColumn("_class", F.coalesce("_own", "_class"))
        return classified.select(*removed.columns).unionByName(removed)

    def _write(self, classified: DataFrame, classes: dict[str, int], blocked: int) -> None:
        """Write the rows for the table in one commit, then record the outcome of each reject."""
        writer, table = self.writer, self.table
        written = sum(classes.get(name, 0) for name in WRITTEN_CLASSES)
        counts = {
            "replayed": sum(classes.values()) + blocked,
            "written": written,
            "unchanged": classes.get("same", 0),
            "superseded": sum(classes.get(name, 0) for name in DISCARD_REASONS),
            "quarantined": blocked,
        }
        commit = writer.make_commit(table, counts)
        if not classes:
            return
        writer.clear_stale_rejects(table)  # of an uncommitted batch, which had the number of this commit
        writer.tables.prepare(writer.make_target(table), writer.step.schema_changes.added_columns)
        rows = classified.where(F.col("_class").isin(*WRITTEN_CLASSES)).drop("_class")
        if written:
            key = () if table.write.is_append_only else table.key
            writer.validate(table, rows, lambda target: transforms.anti_join(target, rows, key) if key else target)
        if classes.get("newer"):
            writer.tables.merge(rows, writer.make_target(table), commit, table.key, "", None)
        else:  # also without rows, so that the outcomes have a commit
            writer.tables.append(rows, writer.make_target(table), commit)
        _record_outcomes(writer, table, classified, commit.record)


def _record_outcomes(writer: TableWriter, table: Table, classified: DataFrame, record: Record) -> None:
    """Append the outcome of each classified reject, under the record of the commit that settled it."""
    reason = F.lit("")
    for name, text in (*DISCARD_REASONS.items(), ("rebuilt", "the table was rebuilt")):
        reason = F.when(F.col("_class") == name, text).otherwise(reason)
    values = {
        "generation": F.lit(record.generation).cast("bigint"),
        "batch": F.lit(record.batch).cast("bigint"),
        "outcome": F.when(F.col("_class").isin(*DISCARD_REASONS), "discarded").otherwise("replayed"),
        "reason": reason,
        "run": F.lit(record.run),
        "at": F.lit(datetime.fromisoformat(record.committed_at)),
    }
    target = Target(
        f"the outcomes of {table.name}", writer.catalog.get_outcomes_path(table.name), has_change_feed=False
    )
    outcomes = classified.withColumns(values).select(*quarantine.OUTCOME_COLUMNS)
    commit = Commit(f"outcomes/{table.name}", record, writer.run.lease.issue_fencing_token())
    writer.tables.append(outcomes, target, commit)
