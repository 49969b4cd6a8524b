"""Transformations that the write modes share: frames in, frames out, and no other effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import Table
from lakehouse.definitions.write_modes import History
from lakehouse.errors import SchemaError
from lakehouse.writes.conditions import all_of, is_beyond_calendar, make_comparable

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType


def select_declared(
    name: str, columns: Mapping[str, str], required: Sequence[str], allowed: Sequence[str], frame: DataFrame
) -> DataFrame:
    """Select the declared columns in their order.

    Args:
        columns: The declared columns with their types.
        required: Further columns that the frame must have.
        allowed: Further columns that the frame may have.

    Raises:
        SchemaError: A column is missing, undeclared or of another type. All such columns are listed.
    """
    types = {field.name: field.dataType.simpleString() for field in frame.schema}
    problems = [f"{c} is missing" for c in (*columns, *required) if c not in types]
    problems += [f"{c} is {types[c]}, declared {t}" for c, t in columns.items() if c in types and types[c] != t]
    problems += [f"{c} is not declared" for c in types if c not in (*columns, *required, *allowed)]
    if problems:
        raise SchemaError(
            f"{name}: the columns of the function's result differ from the declaration: {'; '.join(problems)}. "
            "Change the function or the declaration."
        )
    return frame.select(*columns, *required, *[c for c in allowed if c in types])


def build_newest_order(table: Table, columns: Sequence[str]) -> Column:
    """Return the order of the rows of a key as one comparable struct: the greatest is the newest."""
    parts = [c for c in (*table.write.get_order_columns(), *ORIGIN_COLUMNS) if c in columns]
    return F.struct(*parts) if parts else F.struct(F.lit(0).alias("none"))


def keep_newest_per_key(table: Table, rows: DataFrame) -> DataFrame:
    """Keep the newest row of each key."""
    window = Window.partitionBy(*table.key).orderBy(build_newest_order(table, rows.columns).desc())
    return rows.withColumn("_rank", F.row_number().over(window)).where("_rank = 1").drop("_rank")


def compute_event_versions(table: Table, history: History, rows: DataFrame) -> DataFrame:
    """Compute the versions of each key from its observations, with the time span of each version.

    Among observations of a key with one effective time, the last delivered counts. An observation that repeats the
    values before it adds no version. The order of delivery does not change the result.
    """
    effective = history.effective_column
    same_time = Window.partitionBy(*table.key, effective).orderBy(build_newest_order(table, rows.columns).desc())
    by_time = Window.partitionBy(*table.key).orderBy(effective)
    last_delivered = rows.withColumn("_rank", F.row_number().over(same_time)).where("_rank = 1").drop("_rank")
    content = _build_content(rows, [c for c in table.columns if c not in (*table.key, effective)])
    changed = ~F.lag(content).over(by_time).eqNullSafe(content) | F.lag(F.lit(1)).over(by_time).isNull()
    starts = last_delivered.withColumn("_changed", changed).where("_changed").drop("_changed")
    until = F.lead(effective).over(by_time)
    return (
        starts.withColumn("valid_from", F.col(effective))
        .withColumn("valid_to", until)
        .withColumn("is_current", F.col("valid_to").isNull())
    )


def compute_snapshot_versions(table: Table, history: History, rows: DataFrame, observed: DataFrame) -> DataFrame:
    """Compute the versions of each key, where the rows of one effective time are a complete snapshot.

    A key that the next snapshot lacks ends with that snapshot. A row that cannot be read deletes nothing. A row
    without a readable key may belong to any key, and so its snapshot deletes nothing at all.

    Args:
        rows: The observations that pass.
        observed: All rows with key and time, with the quarantined and malformed rows.
    """
    effective, key = history.effective_column, [*table.key]
    observed = _list_observations(table, effective, observed)
    times = observed.select(effective).distinct()
    following = times.withColumn("_next", F.lead(effective).over(Window.orderBy(effective)))
    same_time = Window.partitionBy(*key, effective).orderBy(build_newest_order(table, rows.columns).desc())
    last_delivered = rows.withColumn("_rank", F.row_number().over(same_time)).where("_rank = 1").drop("_rank")
    content = _build_content(rows, [c for c in table.columns if c not in (*key, effective)])
    present = observed.join(last_delivered.withColumn("_expected", content), [*key, effective], "left")
    present = present.join(F.broadcast(following), effective)
    by_time = Window.partitionBy(*key).orderBy(effective)
    # A stay is an unbroken series of snapshots that have the key.
    gap = F.coalesce(F.lag("_next").over(by_time) != F.col(effective), F.lit(False))
    stays = present.withColumn("_gap", gap).withColumn("_stay", F.sum(F.col("_gap").cast("int")).over(by_time))
    in_stay = Window.partitionBy(*key, "_stay").orderBy(effective)
    # In two steps, because a GPU computes a last value only up to the row itself.
    until_row = in_stay.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    last_known = F.last("_expected", ignorenulls=True).over(until_row)
    ends = F.last("_next").over(in_stay.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing))
    stays = stays.withColumns({"_known": last_known, "_ends": ends})
    changed = F.col("_expected").isNotNull() & ~F.col("_expected").eqNullSafe(F.lag("_known").over(in_stay))
    starts = stays.withColumn("_changed", changed).where("_changed")
    return (
        starts.withColumn("valid_from", F.col(effective))
        .withColumn("valid_to", F.coalesce(F.lead(effective).over(in_stay), "_ends"))
        .withColumn("is_current", F.col("valid_to").isNull())
    )


def _list_observations(table: Table, effective: str, observed: DataFrame) -> DataFrame:
    """Return the keys with each time at which a row has them, or has a key that cannot be read."""
    key, is_readable = [*table.key], F.col(effective).isNotNull()
    if (beyond := is_beyond_calendar(effective, table.columns[effective])) is not None:
        is_readable = is_readable & ~beyond
    observed = observed.select(*key, effective).where(is_readable).distinct()
    keyless = observed.where(" OR ".join(f"`{c}` IS NULL" for c in key)).select(effective).distinct()
    observed = observed.dropna()
    return observed.unionByName(observed.select(*key).distinct().crossJoin(keyless)).distinct()


def _build_content(rows: DataFrame, columns: Sequence[str]) -> Column:
    """Return the columns of a row as one comparable struct."""
    types = _get_types(rows)
    return F.struct(*[make_comparable(F.col(c), types[c]).alias(c) for c in columns])


def has_same_content(rows: DataFrame, columns: Sequence[str], left: str, right: str) -> Column:
    """Return a condition for two aliased rows that agree on every column, nulls included.

    Args:
        rows: Rows with the columns' types.
    """
    types = _get_types(rows)
    sides = [[make_comparable(F.col(f"{side}.{c}"), types[c]) for side in (left, right)] for c in columns]
    return all_of([ours.eqNullSafe(theirs) for ours, theirs in sides])


def _get_types(rows: DataFrame) -> dict[str, DataType]:
    return {field.name: field.dataType for field in rows.schema.fields}


def keep_newest_of_duplicates(table: Table, rows: DataFrame) -> DataFrame:
    """Keep the newest row of each key. Only keys with more than one row are ordered."""
    key = list(table.key)
    duplicate_keys = rows.groupBy(*key).count().where("count > 1").drop("count")
    single = rows.join(duplicate_keys, key, "left_anti")
    return single.unionByName(keep_newest_per_key(table, rows.join(duplicate_keys, key, "left_semi")))


def classify(
    table: Table, batch: DataFrame, existing: DataFrame, columns: Sequence[str], ignored: Sequence[str] = ()
) -> DataFrame:
    """Add column `_class` to the batch: each row is new, newer, same or older than the table's row of its key.

    Args:
        ignored: Columns that are not compared.
    """
    content = [c for c in table.columns if c not in (*table.key, *ignored)]
    ordered = [c for c in (*table.write.get_order_columns(), *ORIGIN_COLUMNS) if c in columns]
    ours, theirs = (F.struct(*[F.col(f"{side}.{c}") for c in ordered]) if ordered else F.lit(0) for side in "st")
    row_class = (
        F.when(F.col(f"t.{table.key[0]}").isNull(), "new")
        .when(has_same_content(batch, content, "s", "t"), "same")
        .when((ours <= theirs) if ordered else F.lit(False), "older")
        .otherwise("newer")
    )
    matched = [F.col(f"s.{c}") == F.col(f"t.{c}") for c in table.key]
    joined = batch.alias("s").join(existing.alias("t"), matched, "left")
    return joined.select(*[F.col(f"s.{c}").alias(c) for c in columns], row_class.alias("_class"))


def build_key_range_predicate(table: Table, ranges: Mapping[str, tuple[str, str]]) -> str:
    """Return a SQL condition on the target (alias t) that every row with a key of the batch meets.

    Delta skips files outside of it.
    """
    bounds = ((c, table.columns[c], *ranges[c]) for c in table.key if c in ranges)
    return " AND ".join(f"t.`{c}` BETWEEN CAST('{low}' AS {t}) AND CAST('{high}' AS {t})" for c, t, low, high in bounds)


def semi_join(rows: DataFrame, keys: DataFrame, key: Sequence[str]) -> DataFrame:
    """Keep the rows that have one of the keys. Nulls are equal."""
    same = [F.col(f"s.{c}").eqNullSafe(F.col(f"k.{c}")) for c in key]
    return rows.alias("s").join(keys.alias("k"), same, "left_semi")


def anti_join(existing: DataFrame, rows: DataFrame, key: Sequence[str]) -> DataFrame:
    """Drop the existing rows that have the key of one of the rows."""
    return existing.join(rows.select(*key), list(key), "left_anti")


def compute_differences(expected: DataFrame, existing: DataFrame, key: Sequence[str], delete: str) -> DataFrame:
    """Compute the rows to upsert and to delete so that a table holds the expected rows.

    Args:
        delete: Name of the boolean column that marks a row to delete.
    """
    content = [c for c in expected.columns if c not in key]
    ours, theirs = expected.alias("s"), existing.alias("t")
    on = [F.col(f"s.{c}").eqNullSafe(F.col(f"t.{c}")) for c in key]
    joined = ours.join(theirs, on, "full")
    absent, new = F.col(f"s.{key[0]}").isNull(), F.col(f"t.{key[0]}").isNull()
    differing = joined.where(absent | new | ~has_same_content(expected, content, "s", "t"))
    values = [
        F.coalesce(F.col(f"s.{c}"), F.col(f"t.{c}")).alias(c) if c in key else F.col(f"s.{c}").alias(c)
        for c in expected.columns
    ]
    return differing.select(*values, absent.alias(delete))
