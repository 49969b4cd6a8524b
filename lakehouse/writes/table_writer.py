"""The write of one table: its session, its step and the work that all write modes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.catalog import Catalog
from lakehouse.clock import now
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.sources import MALFORMED, ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import UNPARSED, Declaration, Table
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import Record, Run
from lakehouse.engine.base import Commit, Engine, Tables, Target
from lakehouse.errors import SchemaError
from lakehouse.plan.steps import Step, UpdatePartitions
from lakehouse.quality import expectations
from lakehouse.storage.location import Location
from lakehouse.writes import audit, rules, transforms

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class Batch:
    """Staged rows of a row-preserving table, with the input rows that they come from.

    Attributes:
        counts: Aggregates of the input rows: all rows, malformed rows and the hash of their origins.
    """

    staged: DataFrame
    input_rows: DataFrame
    counts: Sequence[Column]

    @cached_property
    def input_counts(self) -> Mapping[str, int | None]:
        return self.count_input().first().asDict()  # type: ignore[union-attr]

    def count_input(self) -> DataFrame:
        """Count the input rows in a frame of one row."""
        return self.input_rows.agg(*self.counts)

    def count_rows_in(self) -> int:
        return int(self.input_counts["rows"] or 0)

    def count_malformed(self) -> int:
        return int(self.input_counts.get("malformed") or 0) if MALFORMED in self.input_rows.columns else 0

    def get_origins_hash(self) -> int | None:
        return self.input_counts.get("origins")


class TableWriter:
    """Write of one table, on a session of its own."""

    def __init__(self, engine: Engine, catalog: Catalog, run: Run, step: Step) -> None:
        self.engine = engine
        self.catalog = catalog
        self.run = run
        self.step = step
        self.path = catalog.get_path(step.table)

    @cached_property
    def tables(self) -> Tables:
        return self.engine.open_tables()

    # --- reading ----------------------------------------------------------------------------------------------------

    def read_snapshot(self, name: str) -> DataFrame:
        """Read an input at its pinned version."""
        return self.tables.read(self.catalog.get_path(name), self.step.inputs[name].version)

    def read_changes(self, name: str) -> DataFrame:
        """Read an input's change feed after the consumed version, up to the pinned version."""
        return self.tables.read_changes(
            self.catalog.get_path(name), self.step.previous_versions[name], self.step.inputs[name].version
        )

    def apply(self, table: Table, inputs: Mapping[str, DataFrame]) -> DataFrame:
        """Run the table's function and check its output against the declared columns.

        Raises:
            SchemaError: The function returned no frame, or other columns than declared.
        """
        required = ORIGIN_COLUMNS if self.catalog.get_landed_source(table) else ()
        output = table(**inputs)
        if output is None:
            raise SchemaError(f"{table.name}: the table's function returned nothing. Return a DataFrame.")
        return transforms.select_declared(table.name, table.columns, required, (UNPARSED,), output)

    def apply_to(self, table: Table, rows: DataFrame) -> DataFrame:
        """Run the table's function on the given rows of its incremental input. Lookups are read in full."""
        inputs = {
            name: rows if table_input.role == "incremental" else self.read_snapshot(table_input.table)
            for name, table_input in table.inputs.items()
        }
        return self.apply(table, inputs)

    def stage(self, table: Table, rows: DataFrame) -> DataFrame:
        """Run the table's function on the well-formed rows of its incremental input."""
        return self.apply_to(table, rows.where(_is_well_formed(rows)))

    def stage_batch(self, table: Table, rows: DataFrame) -> Batch:
        """Stage the well-formed rows as a batch that also counts its input rows."""
        counts = [F.count(F.lit(1)).alias("rows")]
        if MALFORMED in rows.columns:
            counts.append(F.count(MALFORMED).alias("malformed"))
        if self.catalog.get_landed_source(table):
            counts.append(audit.hash_origins(_is_well_formed(rows)))
        return Batch(self.stage(table, rows), rows, counts)

    # --- quality ----------------------------------------------------------------------------------------------------

    def check_counts(
        self, table: Table, batch: Batch, rule_counts: audit.RuleCounts, counts: dict[str, int]
    ) -> dict[str, int]:
        """Add the malformed rows to the counts and return them.

        Raises:
            AccountingError: The table takes landed rows one by one, and the counts do not add up to its input rows.
        """
        counts["quarantined"] += batch.count_malformed()
        if self.catalog.get_landed_source(table):
            audit.check_accounting(table.name, batch.count_rows_in(), counts)
            audit.check_origins(table.name, batch.get_origins_hash(), rule_counts.origins)
        return counts

    def quarantine_batch(
        self, table: Table, rule_counts: audit.RuleCounts, batch: Batch, *, is_full_input: bool = False
    ) -> None:
        """Write the batch's rejects before the table is written: none is lost, and a retry replaces them.

        Args:
            is_full_input: The batch reads its whole input again, and adds only rejects new in this generation.

        Raises:
            RuleError: A rule that fails the run was broken.
        """
        landed = batch.input_rows if self.catalog.get_landed_source(table) else None
        audit.raise_on_failures(table, rule_counts, batch.staged, landed)
        parts = []
        if rule_counts.rejected:
            parts.append(rules.build_rejects(table, batch.staged, landed))
        if batch.count_malformed():
            parts.append(rules.build_malformed_rejects(batch.input_rows))
        if not parts and self.has_stale_rejects(table):
            parts.append(rules.build_rejects(table, batch.staged.limit(0), landed))
        for part in parts[1:]:
            parts[0] = parts[0].unionByName(part)
        if parts:
            self.write_quarantine(
                table, parts[0], rule_counts.rejected + batch.count_malformed(), is_full_input=is_full_input
            )

    def has_suite(self, table: Table) -> bool:
        return self.catalog.suites is not None and self.catalog.suites.has_suite(table.name)

    def validate(self, table: Table, rows: DataFrame, retain: Callable[[DataFrame], DataFrame] | None = None) -> None:
        """Validate the table's content after this write with its suite, if it has one.

        Args:
            rows: The rows to write.
            retain: Selects the existing rows that the write keeps. Without it the write keeps none.

        Raises:
            SuiteError: The content does not meet the suite, or could not be validated.
        """
        if self.catalog.suites is None or not self.has_suite(table):
            return
        columns = [c for c in self.catalog.get_written_columns(table.name) if c not in ORIGIN_COLUMNS]
        content = rows.select(*[c for c in columns if c in rows.columns])
        if retain is not None:
            retained = retain(self.tables.read_latest(self.path))
            content = content.unionByName(retained.select(*content.columns))
        expectations.validate(self.catalog.suites, table.name, content, self.run.id)

    @contextmanager
    def cache_for_validation(self, table: Table, rows: DataFrame) -> Iterator[DataFrame]:
        """Cache the rows while a suite runs, so that they are computed once."""
        if not self.has_suite(table):
            yield rows
            return
        cached = rows.persist()
        try:
            yield cached
        finally:
            cached.unpersist()

    def has_stale_rejects(self, table: Table) -> bool:
        """Return True if an earlier attempt at this batch left rejects and made no commit.

        A quarantine that was copied later than its table also has rejects of later batches.
        """
        record = table_log.read_last_record(self.catalog.get_quarantine_path(table.name))
        return record is not None and record.batch >= self.step.batch and record.rows.get("quarantined") != 0

    def clear_stale_rejects(self, table: Table) -> None:
        """Delete stale rejects, because another batch is about to take their batch number."""
        if self.has_stale_rejects(table):
            rejects = self.tables.read_latest(self.catalog.get_quarantine_path(table.name))
            self.write_quarantine(table, rejects.limit(0), 0)

    def write_quarantine(self, table: Table, rows: DataFrame, count: int, *, is_full_input: bool = False) -> None:
        """Write a batch's rejects in place of those of an earlier attempt at the batch."""
        record = self.make_commit(table, {"quarantined": count}).record
        commit = Commit(f"quarantine/{table.name}", record, self.run.lease.issue_fencing_token())
        rejects = rules.add_audit_columns(rows, record)
        path = self.catalog.get_quarantine_path(table.name)
        if is_full_input and table_log.open_log(path):
            existing = self.tables.read_latest(path)
            existing = existing.where(f"generation = {record.generation} AND batch <> {record.batch}")
            existing = self.exclude_settled(table, existing)
            rejects = transforms.anti_join(rejects, existing, [*ORIGIN_COLUMNS, "rules"])
        target = Target(f"the quarantine of {table.name}", path, ("batch",), has_change_feed=False)
        self.tables.replace(rejects, target, commit, f"batch >= {record.batch}")

    def exclude_settled(self, table: Table, rejected: DataFrame) -> DataFrame:
        """Keep the rejects without an outcome of a later replay."""
        return exclude_settled(self.tables, self.catalog.get_outcomes_path(table.name), rejected)

    # --- writing ----------------------------------------------------------------------------------------------------

    def select_written_columns(self, rows: DataFrame) -> list[str]:
        return [c for c in self.catalog.get_written_columns(self.step.table) if c in rows.columns]

    def make_target(self, declared: Declaration, stats: Sequence[str] = ()) -> Target:
        """Make the target of the write, with file statistics on the columns that readers filter by."""
        if isinstance(declared, Table):
            partition = (declared.partitioning.partition,) if declared.partitioning else ()
            stats = (*audit.get_range_columns(declared), *partition, *declared.stats)
        stats = tuple(dict.fromkeys((*stats, *self.catalog.get_filter_columns(declared.name))))
        return Target(declared.name, self.path, stats, self.catalog.has_incremental_readers(declared.name))

    def make_commit(
        self,
        declared: Declaration,
        rows: Mapping[str, int],
        files: int = 0,
        contract: tuple[str, ...] = (),
        rolled_back_batches: Sequence[int] = (),
    ) -> Commit:
        """Make this step's commit with its record.

        Raises:
            LockError: The run's lease on the lake expired; another run may hold it.
        """
        self.run.lease.check()
        record = Record(
            run=self.run.id,
            batch=self.step.batch,
            generation=self.step.generation,
            inputs=self.step.inputs,
            rows=rows,
            revision=self.run.revision,
            fingerprint=compute_fingerprint(declared),
            committed_at=now(),
            files=files,
            column_changes=(*self.step.schema_changes.describe(), *contract),
            backfill_range=_get_backfilled_range(self.step),
            rolled_back_batches=tuple(rolled_back_batches),
            quarantined_batch=self._find_quarantined_batch(declared, rows),
        )
        return Commit(declared.name, record)

    def _find_quarantined_batch(self, declared: Declaration, rows: Mapping[str, int]) -> int:
        """Return the newest batch with rejects in the quarantine after this commit. A replay writes none."""
        if rows.get("quarantined") and "replayed" not in rows:
            return self.step.batch
        log = None if isinstance(declared, Source) else self.catalog.read_log(declared.name)
        batch = log.quarantined_batch if log else 0
        return min(batch, self.catalog.read_quarantine_batch(declared.name)) if batch else 0


def exclude_settled(tables: Tables, outcomes: Location, rejected: DataFrame, until: int | None = None) -> DataFrame:
    """Keep the rejects without an outcome of a later replay.

    Args:
        outcomes: The table of outcomes beside the quarantine.
        until: Ignore outcomes of later batches than this one.
    """
    if table_log.open_log(outcomes) is None:
        return rejected
    identity = [*ORIGIN_COLUMNS, "generation"]
    rows = tables.read_latest(outcomes)
    rows = rows if until is None else rows.where(f"batch <= {until}")
    settled = rows.groupBy(*identity).agg(F.max("batch").alias("_settled"))
    return rejected.join(settled, identity, "left").where("_settled IS NULL OR batch > _settled").drop("_settled")


def _get_backfilled_range(step: Step) -> tuple[str, ...]:
    """Return the first and the last backfilled partition, or nothing where the step backfills none."""
    days = step.backfilled if isinstance(step, UpdatePartitions) else ()
    return (str(days[0]), str(days[-1])) if days else ()


def _is_well_formed(rows: DataFrame) -> Column:
    return F.col(MALFORMED).isNull() if MALFORMED in rows.columns else F.lit(True)
