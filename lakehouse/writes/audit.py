"""Counts of a staged batch, and whether they add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.definitions.rules import PARSED_RULE, Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import UNPARSED, Table
from lakehouse.errors import AccountingError, RuleError
from lakehouse.writes.rules import effective_rules, is_violated, passing_rows, violates_any

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

RANGED_TYPES = ("date", "timestamp", "int", "bigint")


@dataclass(frozen=True)
class RuleCounts:
    """What one pass over a staged batch counted.

    ``broken`` has the rows that broke each rule (one that only warns counts those that are kept), ``key_range`` the least
    and greatest value of the key columns that have an order worth skipping files by, as text in UTC, ``origins`` sums up
    which landed rows they came from.
    """

    rows: int
    rejected: int
    duplicates: int
    violations: Mapping[str, int]
    key_ranges: Mapping[str, tuple[str, str]]
    origins: int | None = None


def range_columns(table: Table) -> list[str]:
    """The key's columns that have an order worth skipping files by."""
    return [c for c in table.key if table.columns[c] in RANGED_TYPES]


def count_batch(
    table: Table, staged: DataFrame, can_have_duplicates: bool = True, *, has_rules: bool = True
) -> RuleCounts:
    """Count a staged batch in one pass; without ``rules`` every row counts as good, and only the keys need to be computed."""
    row = aggregate_batch(table, staged, can_have_duplicates, has_rules=has_rules).first()
    assert row is not None
    seen = row.asDict()
    broken = {rule.name: int(seen.get(f"rule_{i}") or 0) for i, rule in enumerate(effective_rules(table))}
    if seen.get("unreadable"):
        broken[PARSED_RULE] = int(seen["unreadable"])
    return RuleCounts(
        rows=int(seen["rows"] or 0),
        rejected=int(seen["rejected"] or 0),
        duplicates=_count_duplicates(table, passing_rows(table, staged) if has_rules else staged)
        if seen.get("extra")
        else 0,
        violations={name: count for name, count in broken.items() if count},
        key_ranges={
            c: (seen[f"min_{i}"], seen[f"max_{i}"]) for i, c in enumerate(range_columns(table)) if seen.get(f"min_{i}")
        },
        origins=seen.get("origins"),
    )


def aggregate_batch(
    table: Table, staged: DataFrame, can_have_duplicates: bool = True, *, has_rules: bool = True
) -> DataFrame:
    """One row for `audit`: rows, rejects, rows per broken rule, origins, key ranges and, where asked, rows beyond one per key's hash.

    Plain aggregates: what counts what passes by (`observe`) cannot run on a GPU, and is interpreted on a CPU.
    """
    rejected = violates_any(table, staged) if has_rules else F.lit(False)
    # What is counted of the rows, and what makes one of what several groups counted.
    found = {"rows": (F.count(F.lit(1)), F.sum), "rejected": (F.count_if(rejected), F.sum)}
    if set(ORIGIN_COLUMNS) <= set(staged.columns):
        found["origins"] = (hash_origins(), F.bit_xor)
    if has_rules:
        found |= {
            f"rule_{i}": (_count_violations(rule, rejected), F.sum) for i, rule in enumerate(effective_rules(table))
        }
        found |= {f"min_{i}": (F.min(column), F.min) for i, column in enumerate(range_columns(table))}
        found |= {f"max_{i}": (F.max(column), F.max) for i, column in enumerate(range_columns(table))}
        if UNPARSED in staged.columns:
            found["unreadable"] = (F.count_if(F.size(UNPARSED) > 0), F.sum)
    counts = [count.alias(name) for name, (count, _) in found.items()]
    if can_have_duplicates:
        # By the hash of a key, which is much less to shuffle; all rejects have the same one, as theirs do not count.
        staged = staged.groupBy(F.when(~rejected, _key_hash(table)).alias("hash")).agg(*counts)
        counts = [summed(name).alias(name) for name, (_, summed) in found.items()]
        counts.append(F.sum(F.when(F.col("hash").isNotNull(), F.col("rows") - 1)).alias("extra"))
    ends = [name for name in found if name.startswith(("min_", "max_"))]
    return staged.agg(*counts).withColumns({name: F.col(name).cast("string") for name in ends})


def _key_hash(table: Table) -> Column:
    return F.xxhash64(*table.key)


def _count_duplicates(table: Table, rows: DataFrame) -> int:
    """The rows beyond one per key, by the keys themselves: of billions, two may share a hash."""
    per_key = rows.groupBy(*table.key).agg((F.count(F.lit(1)) - 1).alias("beyond"))
    return int(per_key.agg(F.sum("beyond")).first()[0] or 0)  # type: ignore[index]


def raise_on_failures(table: Table, counted: RuleCounts) -> None:
    """Raise where a rule that fails the run was broken.

    Raises:
        RuleError: names each such rule, its predicate and the rows that broke it.
    """
    fatal = [
        rule for rule in effective_rules(table) if rule.on_violation == "fail" and counted.violations.get(rule.name)
    ]
    if fatal:
        said = "; ".join(f"{rule.name} ({rule.predicate}): {counted.violations[rule.name]} rows" for rule in fatal)
        raise RuleError(f"{table.name}: rows broke rules that fail the run: {said}. Nothing was written.")


def check_accounting(table: str, rows_in: int, counts: Mapping[str, int]) -> None:
    """Check that every row that came in is accounted for.

    Raises:
        AccountingError: rows in differ from written + unchanged + superseded + quarantined.
    """
    total = sum(counts.values())
    if rows_in != total:
        parts = " + ".join(f"{count} {name}" for name, count in counts.items())
        raise AccountingError(
            f"{table}: {rows_in} rows came in, but {parts} = {total}. Nothing was written. Its function must return "
            "one row for each row of its driver: look for a filter, an explode or a join that drops or doubles rows."
        )


def warning_counts(table: Table, counted: RuleCounts) -> dict[str, int]:
    """The rows that broke each rule that only warns."""
    warned = {rule.name for rule in table.rules if rule.on_violation == "warn"}
    return {name: count for name, count in counted.violations.items() if name in warned}


def check_origins(table: str, input_origins: int | None, output_origins: int | None) -> None:
    """Check that the rows that a function returned come from the very rows that it was given.

    Raises:
        AccountingError: it dropped some and returned as many twice, or changed `_file_id` or `_row`.
    """
    if input_origins != output_origins:
        raise AccountingError(
            f"{table}: as many rows came out as came in, but not one for each: its function dropped some and doubled "
            "others, or changed _file_id or _row. Nothing was written."
        )


def hash_origins(rows: Column | None = None) -> Column:
    """What tells one set of landed rows from another of the same size: the exclusive or of their names' hashes."""
    named = F.xxhash64(*ORIGIN_COLUMNS)
    return F.bit_xor(named if rows is None else F.when(rows, named)).alias("origins")


def check_written(table: str, counted: int, written: int) -> None:
    """Check that a commit wrote the rows that the audit before it announced.

    Raises:
        AccountingError: it did not: the table's function gives other rows each time it is called.
    """
    if counted != written:
        raise AccountingError(
            f"{table}: {counted} rows were audited, {written} written. Its function must give the same rows each time: "
            "look for the clock or random numbers in it, then run --full-refresh."
        )


def _count_violations(rule: Rule, rejected: Column) -> Column:
    broken = is_violated(rule)
    return F.count_if(broken & ~rejected if rule.on_violation == "warn" else broken)
