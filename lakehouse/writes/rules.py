"""Row rules: which rows break which rules, and the quarantine that keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.errors import ParseException
from pyspark.sql import functions as F

from lakehouse.definitions.rules import KEY_RULE, MALFORMED_RULE, PARSED_RULE, OnViolation, Rule
from lakehouse.definitions.sources import MALFORMED, ORIGIN_COLUMNS
from lakehouse.definitions.tables import UNPARSED, Table
from lakehouse.errors import RuleError, get_first_line
from lakehouse.spark import MICROSECOND_FORMATS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from lakehouse.deltalog.commit_record import Record

_VIOLATION_MESSAGE = "a row broke a rule of its table"
_PARTITION = "_partition"
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


def add_audit_columns(rejected: DataFrame, record: Record) -> DataFrame:
    """Rejects as the quarantine keeps them, with the batch that set them aside."""
    stamps = {
        "batch": F.lit(record.batch).cast("bigint"),
        "generation": F.lit(record.generation).cast("bigint"),
        "run": F.lit(record.run),
        "quarantined_at": F.lit(datetime.fromisoformat(record.committed_at)),
    }
    return rejected.withColumns(stamps).select(*QUARANTINE_COLUMNS)


def effective_rules(table: Table) -> tuple[Rule, ...]:
    """The declared rules, and the one that a key brings along: no row goes without it, nor without its partition."""
    needed = [*table.key, *([table.partitioning.partition] if table.partitioning else [])]
    if not needed:
        return table.rules
    return (Rule(KEY_RULE, " AND ".join(f"`{c}` IS NOT NULL" for c in dict.fromkeys(needed))), *table.rules)


def violates_any(table: Table, staged: DataFrame, *also: OnViolation) -> Column:
    """True for a row that breaks a rule which quarantines it, or has one of the other consequences named."""
    broken = [is_violated(rule) for rule in effective_rules(table) if rule.on_violation in ("quarantine", *also)]
    if UNPARSED in staged.columns:
        broken.append(F.coalesce(F.size(UNPARSED) > 0, F.lit(False)))
    rejected = F.lit(False)
    for one in broken:
        rejected = rejected | one
    return rejected


def violated_rules(table: Table, staged: DataFrame, *also: OnViolation) -> Column:
    """The names of the rules that set a row aside, or have another of the consequences named."""
    wanted = ("quarantine", *also)
    names = [
        F.when(is_violated(rule), F.lit(rule.name)) for rule in effective_rules(table) if rule.on_violation in wanted
    ]
    named = F.array_compact(F.array(*names)) if names else F.array().cast("array<string>")
    if UNPARSED not in staged.columns:
        return named
    return F.concat(named, F.transform(UNPARSED, lambda c: F.concat(F.lit(f"{PARSED_RULE}: "), c)))


def stop_on_violation(table: Table, staged: DataFrame) -> DataFrame:
    """The staged rows, whose writing stops at one that breaks a rule; `stopped` tells such a stop from other errors.

    Where rows hardly ever break a rule this saves a pass over them. What breaks a rule that only warns is counted once it is written
    (`warned`): a plan that counts what passes by cannot run on a GPU.
    """
    bad = violates_any(table, staged, "fail")
    first = next(iter(table.columns))
    # In a projection, not a filter: that would be pushed down, and the columns that it reads computed twice.
    return staged.withColumn(first, F.when(bad, F.raise_error(F.lit(_VIOLATION_MESSAGE))).otherwise(F.col(first)))


def count_warnings(table: Table, written: DataFrame) -> dict[str, int]:
    """How many of the rows that were written break each rule that only warns."""
    counts = [F.count_if(is_violated(rule)).alias(rule.name) for rule in table.rules if rule.on_violation == "warn"]
    found = written.agg(*counts).first() if counts else None
    return {name: int(count) for name, count in found.asDict().items() if count} if found else {}


def passing_rows(table: Table, staged: DataFrame, *also: OnViolation) -> DataFrame:
    """The staged rows that no rule sets aside, nor one that has another of the consequences named."""
    # A filter is not pushed below what differs by partition: it would compute the columns that it reads a second time.
    computed = staged.withColumn(_PARTITION, F.spark_partition_id())
    return computed.where(~violates_any(table, staged, *also) & (F.col(_PARTITION) >= 0)).drop(_PARTITION)


def is_violation_stop(error: Exception) -> bool:
    """Whether a write ended because a row broke a rule."""
    return _VIOLATION_MESSAGE in str(error)


def rejected_rows(table: Table, staged: DataFrame, landed: DataFrame | None) -> DataFrame:
    """The rejected rows with the rules they broke and their original: the driver's row where there is one."""
    bad = staged.where(violates_any(table, staged)).withColumn("rules", violated_rules(table, staged))
    if landed is None:
        original = F.to_json(F.struct(*table.columns), MICROSECOND_FORMATS)
        missing = [F.lit(None).cast(QUARANTINE_COLUMNS[c]).alias(c) for c in (*ORIGIN_COLUMNS, "_source_file")]
        return bad.select("rules", original.alias("original"), *missing)
    bad = bad.select("rules", *ORIGIN_COLUMNS)
    return _with_originals(landed.join(F.broadcast(bad), [*ORIGIN_COLUMNS], "inner"), landed.columns)


def malformed_rows(landed: DataFrame) -> DataFrame:
    """The landed rows that do not have the declared shape, as quarantine rows."""
    bad = landed.where(F.col(MALFORMED).isNotNull()).withColumn("rules", F.array(F.lit(MALFORMED_RULE)))
    return _with_originals(bad, landed.columns)


def _with_originals(rows: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Quarantine rows from landed rows with a column `rules`."""
    kept = F.to_json(F.struct(*columns), {"ignoreNullFields": "false", **MICROSECOND_FORMATS})
    return rows.select("rules", kept.alias("original"), *ORIGIN_COLUMNS, "_source_file")


def is_violated(rule: Rule) -> Column:
    """Return a condition for the rows that break a rule: its predicate is false or null.

    Raises:
        RuleError: the predicate is not SQL.
    """
    try:
        return ~F.coalesce(F.expr(rule.predicate), F.lit(False))
    except ParseException as error:
        said = get_first_line(error)
        raise RuleError(f"The predicate of rule {rule.name} is not SQL: {rule.predicate}: {said}") from error
