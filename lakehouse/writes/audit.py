"""Counts of a staged batch, and checks that they add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.definitions.rules import PARSED_RULE, Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import Table
from lakehouse.errors import AccountingError, RuleError, escape_controls
from lakehouse.writes.conditions import any_of
from lakehouse.writes.rules import (
    build_reject_condition,
    get_effective_rules,
    is_violated,
    list_unreadable_conditions,
    select_passing_rows,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

RANGED_TYPES = ("date", "timestamp", "int", "bigint")


@dataclass(frozen=True)
class RuleCounts:
    """Counts of one pass over a staged batch.

    Attributes:
        duplicates: Number of rows beyond one per key.
        violations: Number of rows that violate each rule. A rule that only warns counts rows that are not rejected.
        key_ranges: Least and greatest value of each key column in `get_range_columns`, as text in UTC.
        origins: Hash of the set of landed rows that the staged rows come from.
    """

    rows: int
    rejected: int
    duplicates: int
    violations: Mapping[str, int]
    key_ranges: Mapping[str, tuple[str, str]]
    origins: int | None = None


def get_range_columns(table: Table) -> list[str]:
    """Return the key columns with an order by which a merge can skip files."""
    return [c for c in table.key if table.columns[c] in RANGED_TYPES]


def count_batch(
    table: Table, staged: DataFrame, can_have_duplicates: bool = True, *, has_rules: bool = True
) -> RuleCounts:
    """Count a staged batch in one pass.

    Args:
        has_rules: If False, every row passes, and only the keys need to be computed.
    """
    row = aggregate_batch(table, staged, can_have_duplicates, has_rules=has_rules).first()
    assert row is not None
    values = row.asDict()
    violations = {rule.name: int(values.get(f"rule_{i}") or 0) for i, rule in enumerate(get_effective_rules(table))}
    if values.get("unreadable"):
        violations[PARSED_RULE] = int(values["unreadable"])
    bounds = [(c, values.get(f"min_{i}"), values.get(f"max_{i}")) for i, c in enumerate(get_range_columns(table))]
    duplicates = 0
    if values.get("extra"):
        duplicates = _count_duplicates(table, select_passing_rows(table, staged) if has_rules else staged)
    return RuleCounts(
        rows=int(values["rows"] or 0),
        rejected=int(values["rejected"] or 0),
        duplicates=duplicates,
        violations={name: count for name, count in violations.items() if count},
        key_ranges={c: (low, high) for c, low, high in bounds if low and high},
        origins=values.get("origins"),
    )


def aggregate_batch(
    table: Table, staged: DataFrame, can_have_duplicates: bool = True, *, has_rules: bool = True
) -> DataFrame:
    """Aggregate a staged batch to one row: rows, rejects, violations by rule, origins and key ranges.

    These are plain aggregates. An observed metric (`observe`) cannot run on a GPU, and a CPU interprets it.

    Args:
        can_have_duplicates: Also count the rows beyond one per hash of a key.
    """
    rejected = build_reject_condition(table, staged) if has_rules else F.lit(False)
    # Each aggregate of the rows, with the aggregate that combines the values of several groups.
    aggregates = {"rows": (F.count(F.lit(1)), F.sum), "rejected": (F.count_if(rejected), F.sum)}
    if set(ORIGIN_COLUMNS) <= set(staged.columns):
        aggregates["origins"] = (hash_origins(), F.bit_xor)
    if has_rules:
        for i, rule in enumerate(get_effective_rules(table)):
            aggregates[f"rule_{i}"] = (_count_violations(rule, rejected), F.sum)
        for i, column in enumerate(get_range_columns(table)):
            aggregates[f"min_{i}"] = (F.min(column), F.min)
            aggregates[f"max_{i}"] = (F.max(column), F.max)
        if unreadable := list_unreadable_conditions(table, staged):
            aggregates["unreadable"] = (F.count_if(any_of(unreadable)), F.sum)
    counts = [count.alias(name) for name, (count, _) in aggregates.items()]
    if can_have_duplicates:
        # The hash of a key is much less to shuffle than the key. Rejects are no duplicates: they share one null hash.
        staged = staged.groupBy(F.when(~rejected, _key_hash(table)).alias("hash")).agg(*counts)
        counts = [combine(name).alias(name) for name, (_, combine) in aggregates.items()]
        counts.append(F.sum(F.when(F.col("hash").isNotNull(), F.col("rows") - 1)).alias("extra"))
    bounds = [name for name in aggregates if name.startswith(("min_", "max_"))]
    return staged.agg(*counts).withColumns({name: F.col(name).cast("string") for name in bounds})


def _key_hash(table: Table) -> Column:
    return F.xxhash64(*table.key)


def _count_duplicates(table: Table, rows: DataFrame) -> int:
    """Count the rows beyond one per key, by the keys themselves: among billions of keys, two may share a hash."""
    per_key = rows.groupBy(*table.key).agg((F.count(F.lit(1)) - 1).alias("beyond"))
    return int(per_key.agg(F.sum("beyond")).first()[0] or 0)  # type: ignore[index]


def raise_on_failures(
    table: Table, rule_counts: RuleCounts, staged: DataFrame, landed: DataFrame | None = None
) -> None:
    """Raise an error if rows violate a rule that fails the run.

    Args:
        landed: The landed rows of the staged ones, for the name of the file.

    Raises:
        RuleError: Rows violate such a rule. Each rule is listed with its predicate and its number of rows. The first
            row is named by its file and row, or by its key.
    """
    violations = rule_counts.violations
    fatal = [rule for rule in get_effective_rules(table) if rule.on_violation == "fail" and violations.get(rule.name)]
    if fatal:
        listing = "; ".join(f"{rule.name} ({rule.predicate}): {violations[rule.name]} rows" for rule in fatal)
        raise RuleError(
            f"{table.name}: rows violate rules that fail the run, and nothing was written: "
            f"{listing}{_describe_first_row(table, fatal, staged, landed)}. "
            "Correct the rows or the rules, then run again."
        )


def _describe_first_row(table: Table, violated: Sequence[Rule], staged: DataFrame, landed: DataFrame | None) -> str:
    """Return where the first violating row is: its file and row, or its key; empty for a table without either."""
    bad = staged.where(any_of([is_violated(rule) for rule in violated]))
    if landed is not None:
        rows = landed.join(bad.select(*ORIGIN_COLUMNS), [*ORIGIN_COLUMNS]).orderBy(*ORIGIN_COLUMNS)
        row = rows.select("_source_file", "_row").first()
        return f"; the first is row {row[1]} of {escape_controls(str(row[0]))}" if row else ""
    row = bad.select(*table.key).orderBy(*table.key).first() if table.key else None
    key = ", ".join(f"{name}={value}" for name, value in row.asDict().items()) if row else ""
    return f"; the first has {escape_controls(key)}" if key else ""


def check_accounting(table: str, rows_in: int, counts: Mapping[str, int]) -> None:
    """Check that the counts account for every input row.

    Raises:
        AccountingError: The number of input rows is not written + unchanged + superseded + quarantined.
    """
    total = sum(counts.values())
    if rows_in != total:
        parts = " + ".join(f"{count} {name}" for name, count in counts.items())
        raise AccountingError(
            f"{table}: {rows_in} rows came in, but {parts} = {total}, and nothing was written. "
            "Return one row for each row of the incremental input: look for a filter, an explode or a join "
            "that drops or duplicates rows."
        )


def get_warning_counts(table: Table, rule_counts: RuleCounts) -> dict[str, int]:
    """Return the number of rows that violate each rule that only warns."""
    names = {rule.name for rule in table.rules if rule.on_violation == "warn"}
    return {name: count for name, count in rule_counts.violations.items() if name in names}


def check_origins(table: str, input_origins: int | None, output_origins: int | None) -> None:
    """Check that the rows of a function's output come from exactly its input rows.

    Raises:
        AccountingError: The function dropped rows and duplicated as many, or changed `_file_id` or `_row`.
    """
    if input_origins != output_origins:
        raise AccountingError(
            f"{table}: as many rows came out as came in, but not one for each, and nothing was written. "
            "Correct the table's function: it drops rows and duplicates others, or changes _file_id or _row."
        )


def hash_origins(rows: Column | None = None) -> Column:
    """Return the hash of a set of landed rows: the exclusive or of the hashes of their origins.

    Args:
        rows: A condition for the rows to hash. Without it all are hashed.
    """
    origin = F.xxhash64(*ORIGIN_COLUMNS)
    return F.bit_xor(origin if rows is None else F.when(rows, origin)).alias("origins")


def check_written(table: str, expected: int, written: int) -> None:
    """Check that a commit wrote as many rows as the audit before it counted.

    Raises:
        AccountingError: The numbers differ, because the table's function returns other rows on each call.
    """
    if expected != written:
        raise AccountingError(
            f"{table}: {expected} rows were checked, but {written} were written, because the table's function returns "
            "other rows on each call. Remove the clock or random numbers from the function, then run --full-refresh."
        )


def _count_violations(rule: Rule, rejected: Column) -> Column:
    violated = is_violated(rule)
    return F.count_if(violated & ~rejected if rule.on_violation == "warn" else violated)
