"""Row rules: conditions for the rows that violate them, and the rows of the quarantine."""

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
from lakehouse.writes.conditions import any_of, is_beyond_calendar

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from lakehouse.deltalog.commit_record import Record

_VIOLATION_MESSAGE = "a row violates a rule of its table"
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
    """Add the batch that quarantined the rejects, in the columns of the quarantine."""
    values = {
        "batch": F.lit(record.batch).cast("bigint"),
        "generation": F.lit(record.generation).cast("bigint"),
        "run": F.lit(record.run),
        "quarantined_at": F.lit(datetime.fromisoformat(record.committed_at)),
    }
    return rejected.withColumns(values).select(*QUARANTINE_COLUMNS)


def get_effective_rules(table: Table) -> tuple[Rule, ...]:
    """Return the declared rules and the implied rule: key and partition are not null."""
    required = [*table.key, *([table.partitioning.partition] if table.partitioning else [])]
    if not required:
        return table.rules
    return (Rule(KEY_RULE, " AND ".join(f"`{c}` IS NOT NULL" for c in dict.fromkeys(required))), *table.rules)


def build_reject_condition(table: Table, staged: DataFrame, *also: OnViolation) -> Column:
    """Return a condition for the rows that violate a rule that quarantines.

    Args:
        also: Further consequences: rules with one of them are tested, too.
    """
    conditions = [
        is_violated(rule) for rule in get_effective_rules(table) if rule.on_violation in ("quarantine", *also)
    ]
    return any_of([*conditions, *list_unreadable_conditions(table, staged)])


def list_unreadable_conditions(table: Table, staged: DataFrame) -> list[Column]:
    """Return conditions for the rows with a value that does not parse, or with a date that readers cannot hold."""
    conditions = list(_find_dates_beyond_calendar(table).values())
    if UNPARSED in staged.columns:
        conditions.append(F.coalesce(F.size(UNPARSED) > 0, F.lit(False)))
    return conditions


def _find_dates_beyond_calendar(table: Table) -> dict[str, Column]:
    """Return by column a condition for its dates or times that readers cannot hold."""
    conditions = {c: is_beyond_calendar(c, kind) for c, kind in table.columns.items()}
    return {c: condition for c, condition in conditions.items() if condition is not None}


def list_violated_rules(table: Table, staged: DataFrame, *also: OnViolation) -> Column:
    """Return the names of the quarantining rules that a row violates.

    Args:
        also: Further consequences: rules with one of them are tested, too.
    """
    rules = [rule for rule in get_effective_rules(table) if rule.on_violation in ("quarantine", *also)]
    names = [F.when(is_violated(rule), F.lit(rule.name)) for rule in rules]
    names += [F.when(beyond, F.lit(f"{PARSED_RULE}: {c}")) for c, beyond in _find_dates_beyond_calendar(table).items()]
    violated = F.array_compact(F.array(*names)) if names else F.array().cast("array<string>")
    if UNPARSED not in staged.columns:
        return violated
    return F.concat(violated, F.transform(UNPARSED, lambda c: F.concat(F.lit(f"{PARSED_RULE}: "), c)))


def stop_on_violation(table: Table, staged: DataFrame) -> DataFrame:
    """Make the write of the staged rows stop at a row that violates a rule.

    This saves a pass over the rows, because violations are rare. `is_violation_stop` recognizes the error.
    After the write, `count_warnings` counts violations of rules that only warn: a plan that counts rows while it
    writes them cannot run on a GPU.
    """
    bad = build_reject_condition(table, staged, "fail")
    first = next(iter(table.columns))
    # A projection, because a filter would be pushed down and compute the columns that it reads twice.
    return staged.withColumn(first, F.when(bad, F.raise_error(F.lit(_VIOLATION_MESSAGE))).otherwise(F.col(first)))


def count_warnings(table: Table, written: DataFrame) -> dict[str, int]:
    """Count the written rows that violate each rule that only warns."""
    counts = [F.count_if(is_violated(rule)).alias(rule.name) for rule in table.rules if rule.on_violation == "warn"]
    row = written.agg(*counts).first() if counts else None
    return {name: int(count) for name, count in row.asDict().items() if count} if row else {}


def select_passing_rows(table: Table, staged: DataFrame, *also: OnViolation) -> DataFrame:
    """Keep the staged rows that no rule quarantines.

    Args:
        also: Further consequences: rules with one of them are tested, too.
    """
    # The partition's number keeps Spark from pushing the filter down, which would compute its columns twice.
    computed = staged.withColumn(_PARTITION, F.spark_partition_id())
    return computed.where(~build_reject_condition(table, staged, *also) & (F.col(_PARTITION) >= 0)).drop(_PARTITION)


def is_violation_stop(error: Exception) -> bool:
    """Return True if a write stopped because a row violated a rule."""
    return _VIOLATION_MESSAGE in str(error)


def build_rejects(table: Table, staged: DataFrame, landed: DataFrame | None) -> DataFrame:
    """Return the rejects with the rules that they violate and their original, for the quarantine.

    Args:
        landed: The landed rows, each the original of one staged row. Without them the staged row is the original.
    """
    bad = staged.where(build_reject_condition(table, staged)).withColumn("rules", list_violated_rules(table, staged))
    if landed is None:
        original = F.to_json(F.struct(*table.columns), MICROSECOND_FORMATS)
        missing = [F.lit(None).cast(QUARANTINE_COLUMNS[c]).alias(c) for c in (*ORIGIN_COLUMNS, "_source_file")]
        return bad.select("rules", original.alias("original"), *missing)
    bad = bad.select("rules", *ORIGIN_COLUMNS)
    return _with_originals(landed.join(F.broadcast(bad), [*ORIGIN_COLUMNS], "inner"), landed.columns)


def build_malformed_rejects(landed: DataFrame) -> DataFrame:
    """Return the landed rows that do not have the declared shape, for the quarantine."""
    bad = landed.where(F.col(MALFORMED).isNotNull()).withColumn("rules", F.array(F.lit(MALFORMED_RULE)))
    return _with_originals(bad, landed.columns)


def _with_originals(rows: DataFrame, columns: Sequence[str]) -> DataFrame:
    """Turn landed rows with a column `rules` into quarantine rows."""
    original = F.to_json(F.struct(*columns), {"ignoreNullFields": "false", **MICROSECOND_FORMATS})
    return rows.select("rules", original.alias("original"), *ORIGIN_COLUMNS, "_source_file")


def is_violated(rule: Rule) -> Column:
    """Return a condition for the rows that violate a rule: its predicate is false or null.

    Raises:
        RuleError: The predicate is not valid SQL.
    """
    try:
        return ~F.coalesce(F.expr(rule.predicate), F.lit(False))
    except ParseException as error:
        raise RuleError(
            f"Rule {rule.name}: the predicate {rule.predicate} is not valid SQL: {get_first_line(error)}. "
            "Correct the predicate."
        ) from error
