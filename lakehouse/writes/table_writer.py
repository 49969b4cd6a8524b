"""One table's write: the session, the step, and what every way of writing does with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.catalog import Lake
from lakehouse.clock import now
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.sources import MALFORMED, ORIGIN_COLUMNS
from lakehouse.definitions.tables import UNPARSED, Declaration, Table
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import Record, Run
from lakehouse.engine.base import Commit, Engine, Tables, Target
from lakehouse.errors import SchemaError
from lakehouse.landing.manifest import RejectedFile
from lakehouse.plan.steps import Step, UpdatePartitions
from lakehouse.quality import expectations
from lakehouse.storage.location import Location
from lakehouse.writes import audit, rules, transforms

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class Outcome:
    """What became of a step: rows by what happened to them, partitions replaced, files rejected, rules that only warn, what the
    contract made of files with other columns."""

    rows: Mapping[str, int]
    partitions: int | None = None
    rejected_files: tuple[RejectedFile, ...] = ()
    warnings: Mapping[str, int] = field(default_factory=dict)
    is_committed: bool = True
    contract: tuple[str, ...] = ()


def sum_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """What became of a step that was carried out in several commits."""
    rows, warnings = Counter[str](), Counter[str]()
    for one in outcomes:
        rows.update(one.rows)
        warnings.update(one.warnings)
    return replace(outcomes[0], rows=rows, warnings=warnings, partitions=sum(one.partitions or 0 for one in outcomes))


@dataclass(frozen=True)
class Batch:
    """A row-preserving table's staged rows, and where they came from.

    ``counts`` are of the driver's rows and the malformed among them, and sum up which rows they are.
    """

    staged: DataFrame
    input_rows: DataFrame
    counts: Sequence[Column]

    @cached_property
    def input_counts(self) -> Mapping[str, int | None]:
        return self.count_input().first().asDict()  # type: ignore[union-attr]

    def count_input(self) -> DataFrame:
        """One row with the counts."""
        return self.input_rows.agg(*self.counts)

    def rows_in(self) -> int:
        return int(self.input_counts["rows"] or 0)

    def malformed(self) -> int:
        return int(self.input_counts.get("malformed") or 0) if MALFORMED in self.input_rows.columns else 0

    def origins(self) -> int | None:
        return self.input_counts.get("origins")


class TableWriter:
    """One table's write, on a session of its own."""

    def __init__(self, engine: Engine, lake: Lake, run: Run, step: Step) -> None:
        self.engine = engine
        self.lake = lake
        self.run = run
        self.step = step
        self.path = lake.path(step.table)

    @cached_property
    def tables(self) -> Tables:
        return self.engine.isolate()

    # --- reading ----------------------------------------------------------------------------------------------------

    def read_snapshot(self, name: str) -> DataFrame:
        """An input as it was at the pinned version."""
        return self.tables.read(self.lake.path(name), self.step.inputs[name].version)

    def read_changes(self, name: str) -> DataFrame:
        """An input's change feed from the version consumed to the pinned one."""
        return self.tables.read_changes(
            self.lake.path(name), self.step.previous_versions[name], self.step.inputs[name].version
        )

    def apply(self, table: Table, inputs: Mapping[str, DataFrame]) -> DataFrame:
        """The function's output, checked against the declared columns."""
        needed = ORIGIN_COLUMNS if self.lake.get_landed_source(table) else ()
        made = table(**inputs)
        if made is None:
            raise SchemaError(f"{table.name}: its function returned nothing; it must return a DataFrame.")
        return transforms.select_declared(table.name, table.columns, needed, (UNPARSED,), made)

    def apply_to(self, table: Table, rows: DataFrame) -> DataFrame:
        """The function's output for these rows of its driver, look-ups being whole."""
        return self.apply(
            table,
            {
                n: rows if one.role == "incremental" else self.read_snapshot(one.table)
                for n, one in table.inputs.items()
            },
        )

    def stage(self, table: Table, rows: DataFrame) -> DataFrame:
        """The function's output for the driver's well-formed rows."""
        return self.apply_to(table, rows.where(_is_well_formed(rows)))

    def stage_batch(self, table: Table, rows: DataFrame) -> Batch:
        """The same, with a count of what it came from."""
        counts = [F.count(F.lit(1)).alias("rows")]
        whole = _is_well_formed(rows)
        if MALFORMED in rows.columns:
            counts.append(F.count(MALFORMED).alias("malformed"))
        if self.lake.get_landed_source(table):
            counts.append(audit.hash_origins(whole))
        return Batch(self.stage(table, rows), rows, counts)

    # --- quality ----------------------------------------------------------------------------------------------------

    def check_counts(
        self, table: Table, batch: Batch, counted: audit.RuleCounts, counts: dict[str, int]
    ) -> dict[str, int]:
        """The counts, once they add up to the rows that came in, where the table takes landed rows one by one."""
        counts["quarantined"] += batch.malformed()
        if self.lake.get_landed_source(table):
            audit.check_accounting(table.name, batch.rows_in(), counts)
            audit.check_origins(table.name, batch.origins(), counted.origins)
        return counts

    def quarantine_batch(
        self, table: Table, counted: audit.RuleCounts, batch: Batch, *, is_full_input: bool = False
    ) -> None:
        """Refuse the batch, or write its rejects: before the table, so that none is lost; a retry replaces them.

        A batch that goes through the ``whole`` driver again adds what this generation has not set aside before.

        Raises:
            RuleError: a rule that fails the run was broken.
        """
        audit.raise_on_failures(table, counted)
        landed = batch.input_rows if self.lake.get_landed_source(table) else None
        parts = []
        if counted.rejected:
            parts.append(rules.rejected_rows(table, batch.staged, landed))
        if batch.malformed():
            parts.append(rules.malformed_rows(batch.input_rows))
        if not parts and self.has_stale_rejects(table):
            parts.append(rules.rejected_rows(table, batch.staged.limit(0), landed))
        for part in parts[1:]:
            parts[0] = parts[0].unionByName(part)
        if parts:
            self.write_quarantine(table, parts[0], counted.rejected + batch.malformed(), is_full_input=is_full_input)

    def has_suite(self, table: Table) -> bool:
        return self.lake.suites is not None and self.lake.suites.has_suite(table.name)

    def validate(self, table: Table, rows: DataFrame, retain: Callable[[DataFrame], DataFrame] | None = None) -> None:
        """Validate the table as it is about to be with its suite, where it has one.

        That is the rows to write and, of those that the table holds, what ``stays`` makes of them: none without it.

        Raises:
            SuiteError: they do not meet it, or it could not be told.
        """
        if self.lake.suites is None or not self.has_suite(table):
            return
        columns = [c for c in self.lake.written_columns(table.name) if c not in ORIGIN_COLUMNS]
        whole = rows.select(*[c for c in columns if c in rows.columns])
        if retain is not None:
            there = retain(self.tables.read_latest(self.path))
            whole = whole.unionByName(there.select(*whole.columns))
        expectations.validate(self.lake.suites, table.name, whole, self.run.id)

    @contextmanager
    def cached_for_validation(self, table: Table, rows: DataFrame) -> Iterator[DataFrame]:
        """The rows, kept while they are validated and then written, where the table has a suite: they are computed once."""
        if not self.has_suite(table):
            yield rows
            return
        kept = rows.persist()
        try:
            yield kept
        finally:
            kept.unpersist()

    def has_stale_rejects(self, table: Table) -> bool:
        """Whether an attempt at this batch that did not reach its commit left rejects behind.

        A quarantine that was copied later than its table has rejects of later batches, too.
        """
        record = table_log.read_last_record(self.lake.quarantine_path(table.name))
        return record is not None and record.batch >= self.step.batch and record.rows.get("quarantined") != 0

    def clear_stale_rejects(self, table: Table) -> None:
        """Take away what `left_rejects` tells of: its batch is about to be another."""
        if self.has_stale_rejects(table):
            self.write_quarantine(table, self.tables.read_latest(self.lake.quarantine_path(table.name)).limit(0), 0)

    def write_quarantine(self, table: Table, rows: DataFrame, count: int, *, is_full_input: bool = False) -> None:
        """Put a batch's rejects in the place of those that an earlier attempt at it left."""
        record = self.make_commit(table, {"quarantined": count}).record
        commit = Commit(f"quarantine/{table.name}", record, self.run.lease.issue_fencing_token())
        named = rules.add_audit_columns(rows, record)
        path = self.lake.quarantine_path(table.name)
        if is_full_input and table_log.open_log(path):
            before = self.tables.read_latest(path).where(
                f"generation = {record.generation} AND batch <> {record.batch}"
            )
            before = self.exclude_settled(table, before)
            named = transforms.anti_join(named, before, [*ORIGIN_COLUMNS, "rules"])
        target = Target(f"the quarantine of {table.name}", path, ("batch",), change_feed=False)
        self.tables.replace(named, target, commit, f"batch >= {record.batch}")

    def exclude_settled(self, table: Table, rejected: DataFrame) -> DataFrame:
        """The rejects of which no replay found anything to become since."""
        return exclude_settled(self.tables, self.lake.outcomes_path(table.name), rejected)

    # --- writing ----------------------------------------------------------------------------------------------------

    def written_columns(self, rows: DataFrame) -> list[str]:
        return [c for c in self.lake.written_columns(self.step.table) if c in rows.columns]

    def make_target(self, declared: Declaration, stats: Sequence[str] = ()) -> Target:
        """The table to write, with statistics on what readers filter by."""
        if isinstance(declared, Table):
            partition = (declared.partitioning.partition,) if declared.partitioning else ()
            ordered = audit.range_columns(declared)
            stats = (*ordered, *partition, *declared.stats)
        stats = tuple(dict.fromkeys((*stats, *self.lake.get_filter_columns(declared.name))))
        return Target(declared.name, self.path, stats, self.lake.has_incremental_readers(declared.name))

    def make_commit(
        self,
        declared: Declaration,
        rows: Mapping[str, int],
        files: int = 0,
        contract: tuple[str, ...] = (),
        undone: Sequence[int] = (),
    ) -> Commit:
        """The record of this step's commit.

        Raises:
            LockError: the lake may be another's by now.
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
            backfill_range=_backfilled_range(self.step),
            rolled_back_batches=tuple(undone),
        )
        return Commit(declared.name, record)


def exclude_settled(tables: Tables, outcomes: Location, rejected: DataFrame, until: int | None = None) -> DataFrame:
    """The rejects of which no replay found anything to become since, up to a batch where one is given."""
    if table_log.open_log(outcomes) is None:
        return rejected
    named = [*ORIGIN_COLUMNS, "generation"]
    found = tables.read_latest(outcomes)
    found = found if until is None else found.where(f"batch <= {until}")
    settled = found.groupBy(*named).agg(F.max("batch").alias("_settled"))
    return rejected.join(settled, named, "left").where("_settled IS NULL OR batch > _settled").drop("_settled")


def _backfilled_range(step: Step) -> tuple[str, ...]:
    """Return the first and the last backfilled partition; nothing where a step backfills none."""
    days = step.backfilled if isinstance(step, UpdatePartitions) else ()
    return (str(days[0]), str(days[-1])) if days else ()


def _is_well_formed(rows: DataFrame) -> Column:
    return F.col(MALFORMED).isNull() if MALFORMED in rows.columns else F.lit(True)
