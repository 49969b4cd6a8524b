"""Row rules: which rows break which rules, the count of them, and the quarantine that keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.errors import ParseException
from pyspark.sql import functions as F

from lakehouse.columns import UNREADABLE
from lakehouse.declare import (
    KEY_RULE,
    MALFORMED,
    MALFORMED_RULE,
    ORIGIN_COLUMNS,
    READABLE_RULE,
    OnBreach,
    Replace,
    Rule,
    Table,
)
from lakehouse.errors import AccountingError, RuleError, first_line

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from lakehouse.ledger import Record

_STOP = "a row broke a rule of its table"
_PARTITION = "_partition"
# Spark's JSON leaves out what is less than a millisecond.
WHOLE_TIMES = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX", "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}  # fmt: skip
RANGED_TYPES = ("date", "timestamp", "int", "bigint")

QUARANTINE_COLUMNS: Mapping[str, str] = {
    "rules": "array<string>",
    "original": "string",
    "_file_id": "bigint",
    "_row": "bigint",
    "_source_file": "string",
    "batch": "bigint",
    "generation": "bigint",
    "run": "string",
    "quarantined_at": "timestamp",
}


def stamped(rejected: DataFrame, record: Record) -> DataFrame:
    """Rejects as the quarantine keeps them, with the batch that set them aside."""
    stamps = {
        "batch": F.lit(record.batch).cast("bigint"),
        "generation": F.lit(record.generation).cast("bigint"),
        "run": F.lit(record.run),
        "quarantined_at": F.lit(datetime.fromisoformat(record.at)),
    }
    return rejected.withColumns(stamps).select(*QUARANTINE_COLUMNS)


@dataclass(frozen=True)
class Audit:
    """What one pass over a staged batch counted.

    ``broken`` has the rows that broke each rule (one that only warns counts those that are kept), ``key_range`` the least
    and greatest value of the key columns that have an order worth skipping files by, as text in UTC, ``origins`` sums up
    which landed rows they came from.
    """

    rows: int
    rejected: int
    doubled: int
    broken: Mapping[str, int]
    key_range: Mapping[str, tuple[str, str]]
    origins: int | None = None


def rules_of(table: Table) -> tuple[Rule, ...]:
    """The declared rules, and the one that a key brings along: no row goes without it, nor without its partition."""
    needed = [*table.key, *([table.write.partition] if isinstance(table.write, Replace) else [])]
    if not needed:
        return table.rules
    return (Rule(KEY_RULE, " AND ".join(f"`{c}` IS NOT NULL" for c in dict.fromkeys(needed))), *table.rules)


def ranged(table: Table) -> list[str]:
    """The key's columns that have an order worth skipping files by."""
    return [c for c in table.key if table.columns[c] in RANGED_TYPES]


def rejecting(table: Table, staged: DataFrame, *also: OnBreach) -> Column:
    """True for a row that breaks a rule which quarantines it, or has one of the other consequences named."""
    broken = [_breaks(rule) for rule in rules_of(table) if rule.on_breach in ("quarantine", *also)]
    if UNREADABLE in staged.columns:
        broken.append(F.coalesce(F.size(UNREADABLE) > 0, F.lit(False)))
    rejected = F.lit(False)
    for one in broken:
        rejected = rejected | one
    return rejected


def rules_broken(table: Table, staged: DataFrame, *also: OnBreach) -> Column:
    """The names of the rules that set a row aside, or have another of the consequences named."""
    wanted = ("quarantine", *also)
    names = [F.when(_breaks(rule), F.lit(rule.name)) for rule in rules_of(table) if rule.on_breach in wanted]
    named = F.array_compact(F.array(*names)) if names else F.array().cast("array<string>")
    if UNREADABLE not in staged.columns:
        return named
    return F.concat(named, F.transform(UNREADABLE, lambda c: F.concat(F.lit(f"{READABLE_RULE}: "), c)))


def audit(table: Table, staged: DataFrame, doubled: bool = True, *, rules: bool = True) -> Audit:
    """Count a staged batch in one pass; without ``rules`` every row counts as good, and only the keys need to be computed."""
    row = tally(table, staged, doubled, rules=rules).first()
    assert row is not None
    seen = row.asDict()
    broken = {rule.name: int(seen.get(f"rule_{i}") or 0) for i, rule in enumerate(rules_of(table))}
    if seen.get("unreadable"):
        broken[READABLE_RULE] = int(seen["unreadable"])
    return Audit(
        rows=int(seen["rows"] or 0),
        rejected=int(seen["rejected"] or 0),
        doubled=_doubled(table, good(table, staged) if rules else staged) if seen.get("extra") else 0,
        broken={name: count for name, count in broken.items() if count},
        key_range={
            c: (seen[f"min_{i}"], seen[f"max_{i}"]) for i, c in enumerate(ranged(table)) if seen.get(f"min_{i}")
        },
        origins=seen.get("origins"),
    )


def tally(table: Table, staged: DataFrame, doubled: bool = True, *, rules: bool = True) -> DataFrame:
    """One row for `audit`: rows, rejects, rows per broken rule, origins, key ranges and, where asked, rows beyond one per key's hash.

    Plain aggregates: what counts what passes by (`observe`) cannot run on a GPU, and is interpreted on a CPU.
    """
    rejected = rejecting(table, staged) if rules else F.lit(False)
    # What is counted of the rows, and what makes one of what several groups counted.
    found = {"rows": (F.count(F.lit(1)), F.sum), "rejected": (F.count_if(rejected), F.sum)}
    if set(ORIGIN_COLUMNS) <= set(staged.columns):
        found["origins"] = (origins(), F.bit_xor)
    if rules:
        found |= {f"rule_{i}": (_count_of(rule, rejected), F.sum) for i, rule in enumerate(rules_of(table))}
        found |= {f"min_{i}": (F.min(column), F.min) for i, column in enumerate(ranged(table))}
        found |= {f"max_{i}": (F.max(column), F.max) for i, column in enumerate(ranged(table))}
        if UNREADABLE in staged.columns:
            found["unreadable"] = (F.count_if(F.size(UNREADABLE) > 0), F.sum)
    counts = [count.alias(name) for name, (count, _) in found.items()]
    if doubled:
        # By the hash of a key, which is much less to shuffle; all rejects have the same one, as theirs do not count.
        staged = staged.groupBy(F.when(~rejected, _key_hash(table)).alias("hash")).agg(*counts)
        counts = [summed(name).alias(name) for name, (_, summed) in found.items()]
        counts.append(F.sum(F.when(F.col("hash").isNotNull(), F.col("rows") - 1)).alias("extra"))
    ends = [name for name in found if name.startswith(("min_", "max_"))]
    return staged.agg(*counts).withColumns({name: F.col(name).cast("string") for name in ends})


def _key_hash(table: Table) -> Column:
    return F.xxhash64(*table.key)


def _doubled(table: Table, rows: DataFrame) -> int:
    """The rows beyond one per key, by the keys themselves: of billions, two may share a hash."""
    per_key = rows.groupBy(*table.key).agg((F.count(F.lit(1)) - 1).alias("beyond"))
    return int(per_key.agg(F.sum("beyond")).first()[0] or 0)  # type: ignore[index]


def guarded(table: Table, staged: DataFrame) -> DataFrame:
    """The staged rows, whose writing stops at one that breaks a rule; `stopped` tells such a stop from other errors.

    Where rows hardly ever break a rule this saves a pass over them. What breaks a rule that only warns is counted once it is written
    (`warned`): a plan that counts what passes by cannot run on a GPU.
    """
    bad = rejecting(table, staged, "fail")
    first = next(iter(table.columns))
    # In a projection, not a filter: that would be pushed down, and the columns that it reads computed twice.
    return staged.withColumn(first, F.when(bad, F.raise_error(F.lit(_STOP))).otherwise(F.col(first)))


def warned(table: Table, written: DataFrame) -> dict[str, int]:
    """How many of the rows that were written break each rule that only warns."""
    counts = [F.count_if(_breaks(rule)).alias(rule.name) for rule in table.rules if rule.on_breach == "warn"]
    found = written.agg(*counts).first() if counts else None
    return {name: int(count) for name, count in found.asDict().items() if count} if found else {}


def good(table: Table, staged: DataFrame, *also: OnBreach) -> DataFrame:
    """The staged rows that no rule sets aside, nor one that has another of the consequences named."""
    # A filter is not pushed below what differs by partition: it would compute the columns that it reads a second time.
    computed = staged.withColumn(_PARTITION, F.spark_partition_id())
    return computed.where(~rejecting(table, staged, *also) & (F.col(_PARTITION) >= 0)).drop(_PARTITION)


def stopped(error: Exception) -> bool:
    """Whether a write ended because a row broke a rule."""
    return _STOP in str(error)


def refuse_failures(table: Table, counted: Audit) -> None:
    """Raise where a rule that fails the run was broken.

    Raises:
        RuleError: names each such rule, its predicate and the rows that broke it.
    """
    fatal = [rule for rule in rules_of(table) if rule.on_breach == "fail" and counted.broken.get(rule.name)]
    if fatal:
        said = "; ".join(f"{rule.name} ({rule.predicate}): {counted.broken[rule.name]} rows" for rule in fatal)
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


def quarantined(table: Table, staged: DataFrame, driver: DataFrame | None) -> DataFrame:
    """The rejected rows with the rules they broke and their original: the driver's row where there is one."""
    bad = staged.where(rejecting(table, staged)).withColumn("rules", rules_broken(table, staged))
    if driver is None:
        original = F.to_json(F.struct(*table.columns), WHOLE_TIMES)
        missing = [F.lit(None).cast(QUARANTINE_COLUMNS[c]).alias(c) for c in (*ORIGIN_COLUMNS, "_source_file")]
        return bad.select("rules", original.alias("original"), *missing)
    bad = bad.select("rules", *ORIGIN_COLUMNS)
    return _originals(driver.join(F.broadcast(bad), [*ORIGIN_COLUMNS], "inner"), driver.columns)


def malformed(driver: DataFrame) -> DataFrame:
    """The landed rows that do not have the declared shape, as quarantine rows."""
    bad = driver.where(F.col(MALFORMED).isNotNull()).withColumn("rules", F.array(F.lit(MALFORMED_RULE)))
    return _originals(bad, driver.columns)


def warnings(table: Table, counted: Audit) -> dict[str, int]:
    """The rows that broke each rule that only warns."""
    warned = {rule.name for rule in table.rules if rule.on_breach == "warn"}
    return {name: count for name, count in counted.broken.items() if name in warned}


def check_origins(table: str, came_in: int | None, went_out: int | None) -> None:
    """Check that the rows that a function returned come from the very rows that it was given.

    Raises:
        AccountingError: it dropped some and returned as many twice, or changed `_file_id` or `_row`.
    """
    if came_in != went_out:
        raise AccountingError(
            f"{table}: as many rows came out as came in, but not one for each: its function dropped some and doubled "
            "others, or changed _file_id or _row. Nothing was written."
        )


def origins(rows: Column | None = None) -> Column:
    """What tells one set of landed rows from another of the same size: the exclusive or of their names' hashes."""
    named = F.xxhash64(*ORIGIN_COLUMNS)
    return F.bit_xor(named if rows is None else F.when(rows, named)).alias("origins")


def check_written(table: str, audited: int, written: int) -> None:
    """Check that a commit wrote the rows that the audit before it announced.

    Raises:
        AccountingError: it did not: the table's function gives other rows each time it is called.
    """
    if audited != written:
        raise AccountingError(
            f"{table}: {audited} rows were audited, {written} written. Its function must give the same rows each time: "
            "look for the clock or random numbers in it, then run --full-refresh."
        )


def _originals(rows: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Quarantine rows from landed rows with a column `rules`."""
    kept = F.to_json(F.struct(*columns), {"ignoreNullFields": "false", **WHOLE_TIMES})
    return rows.select("rules", kept.alias("original"), *ORIGIN_COLUMNS, "_source_file")


def _count_of(rule: Rule, rejected: Column) -> Column:
    broken = _breaks(rule)
    return F.count_if(broken & ~rejected if rule.on_breach == "warn" else broken)


def _breaks(rule: Rule) -> Column:
    try:
        return ~F.coalesce(F.expr(rule.predicate), F.lit(False))
    except ParseException as error:
        said = first_line(error)
        raise RuleError(f"The predicate of rule {rule.name} is not SQL: {rule.predicate}: {said}") from error
