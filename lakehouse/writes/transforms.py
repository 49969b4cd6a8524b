"""Frames in, frames out: what the ways of writing share and a test can call with small tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import Table
from lakehouse.definitions.write_modes import History
from lakehouse.errors import SchemaError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def select_declared(
    name: str, columns: Mapping[str, str], needed: Sequence[str], allowed: Sequence[str], frame: DataFrame
) -> DataFrame:
    """The frame with the declared columns in their order, those also ``needed``, and those of ``allowed`` that it has.

    Raises:
        SchemaError: a declared column is missing or of another type, or there is an undeclared one; all are listed.
    """
    found = {field.name: field.dataType.simpleString() for field in frame.schema}
    problems = [f"{c} is missing" for c in (*columns, *needed) if c not in found]
    problems += [f"{c} is {found[c]}, declared {t}" for c, t in columns.items() if c in found and found[c] != t]
    problems += [f"{c} is not declared" for c in found if c not in (*columns, *needed, *allowed)]
    if problems:
        raise SchemaError(f"{name}: its function returned other columns than declared: {'; '.join(problems)}.")
    return frame.select(*columns, *needed, *[c for c in allowed if c in found])


def newest_order(table: Table, columns: Sequence[str]) -> Column:
    """What makes a row of a key newer than another, as one comparable struct."""
    parts = [c for c in (*table.write.order_columns(), *ORIGIN_COLUMNS) if c in columns]
    return F.struct(*parts) if parts else F.struct(F.lit(0).alias("none"))


def newest_per_key(table: Table, rows: DataFrame) -> DataFrame:
    """One row for each key: the newest."""
    window = Window.partitionBy(*table.key).orderBy(newest_order(table, rows.columns).desc())
    return rows.withColumn("_rank", F.row_number().over(window)).where("_rank = 1").drop("_rank")


def versions(table: Table, history: History, rows: DataFrame) -> DataFrame:
    """The versions of each key that a table of observations tells, with the time for which each held.

    Of several observations of a key with one effective time the last delivered counts; one that repeats what was
    known before adds no version. Whatever order they were delivered in, the result is the same.
    """
    effective = history.effective_column
    told = [c for c in table.columns if c not in (*table.key, effective)]
    same_time = Window.partitionBy(*table.key, effective).orderBy(newest_order(table, rows.columns).desc())
    by_time = Window.partitionBy(*table.key).orderBy(effective)
    last_told = rows.withColumn("_rank", F.row_number().over(same_time)).where("_rank = 1").drop("_rank")
    content = F.struct(*told)
    changed = ~F.lag(content).over(by_time).eqNullSafe(content) | F.lag(F.lit(1)).over(by_time).isNull()
    starts = last_told.withColumn("_changed", changed).where("_changed").drop("_changed")
    until = F.lead(effective).over(by_time)
    return (
        starts.withColumn("valid_from", F.col(effective))
        .withColumn("valid_to", until)
        .withColumn("is_current", F.col("valid_to").isNull())
    )


def snapshot_versions(table: Table, history: History, rows: DataFrame, observed: DataFrame) -> DataFrame:
    """`versions`, where the rows of one time are a snapshot of the whole: what the next one leaves out ended with it.

    ``seen`` are all rows with the key and the time, those set aside and the malformed among them: a row that cannot be read deletes
    nothing, and one whose key cannot be told may have been anybody's, so that its snapshot deletes nothing at all.
    """
    effective, key = history.effective_column, [*table.key]
    observed = observed.select(*key, effective).where(F.col(effective).isNotNull()).distinct()
    nameless = observed.where(" OR ".join(f"`{c}` IS NULL" for c in key)).select(effective).distinct()
    observed = observed.dropna()
    observed = observed.unionByName(observed.select(*key).distinct().crossJoin(nameless)).distinct()
    times = observed.select(effective).distinct()
    following = times.withColumn("_next", F.lead(effective).over(Window.orderBy(effective)))
    same_time = Window.partitionBy(*key, effective).orderBy(newest_order(table, rows.columns).desc())
    last_told = rows.withColumn("_rank", F.row_number().over(same_time)).where("_rank = 1").drop("_rank")
    told = F.struct(*[c for c in table.columns if c not in (*key, effective)])
    present = observed.join(last_told.withColumn("_expected", told), [*key, effective], "left")
    present = present.join(F.broadcast(following), effective)
    by_time = Window.partitionBy(*key).orderBy(effective)
    # Snapshots in a row that have the key.
    gap = F.coalesce(F.lag("_next").over(by_time) != F.col(effective), F.lit(False))
    stays = present.withColumn("_gap", gap).withColumn("_stay", F.sum(F.col("_gap").cast("int")).over(by_time))
    in_stay = Window.partitionBy(*key, "_stay").orderBy(effective)
    # In two steps, as a GPU looks for a last value only up to the row itself.
    known = F.last("_expected", ignorenulls=True).over(
        in_stay.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    ends = F.last("_next").over(in_stay.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing))
    stays = stays.withColumns({"_known": known, "_ends": ends})
    changed = F.col("_expected").isNotNull() & ~F.col("_expected").eqNullSafe(F.lag("_known").over(in_stay))
    starts = stays.withColumn("_changed", changed).where("_changed")
    return (
        starts.withColumn("valid_from", F.col(effective))
        .withColumn("valid_to", F.coalesce(F.lead(effective).over(in_stay), "_ends"))
        .withColumn("is_current", F.col("valid_to").isNull())
    )


def has_same_content(columns: Sequence[str], left: str, right: str) -> Column:
    """True where two aliased rows agree on every column, nulls included."""
    same = F.lit(True)
    for c in columns:
        same = same & F.col(f"{left}.{c}").eqNullSafe(F.col(f"{right}.{c}"))
    return same


def newest_of_duplicates(table: Table, rows: DataFrame) -> DataFrame:
    """One row for each key, at the cost of ordering only the keys that come more than once."""
    key = list(table.key)
    doubled = rows.groupBy(*key).count().where("count > 1").drop("count")
    alone = rows.join(doubled, key, "left_anti")
    return alone.unionByName(newest_per_key(table, rows.join(doubled, key, "left_semi")))


def classify(
    table: Table, batch: DataFrame, existing: DataFrame, columns: Sequence[str], ignored: Sequence[str] = ()
) -> DataFrame:
    """The batch's rows, each with how it stands to the table's row of the same key: new, newer, same or older.

    A difference in the ``ignored`` columns alone is none.
    """
    content = [c for c in table.columns if c not in (*table.key, *ignored)]
    ordered = [c for c in (*table.write.order_columns(), *ORIGIN_COLUMNS) if c in columns]
    ours, theirs = (F.struct(*[F.col(f"{side}.{c}") for c in ordered]) if ordered else F.lit(0) for side in "st")
    stands = (
        F.when(F.col(f"t.{table.key[0]}").isNull(), "new")
        .when(has_same_content(content, "s", "t"), "same")
        .when((ours <= theirs) if ordered else F.lit(False), "older")
        .otherwise("newer")
    )
    matched = [F.col(f"s.{c}") == F.col(f"t.{c}") for c in table.key]
    joined = batch.alias("s").join(existing.alias("t"), matched, "left")
    return joined.select(*[F.col(f"s.{c}").alias(c) for c in columns], stands.alias("_class"))


def key_range_predicate(table: Table, ranges: Mapping[str, tuple[str, str]]) -> str:
    """A condition on the target (alias t) that every row with one of a batch's keys meets: files outside are skipped."""
    found = ((c, table.columns[c], *ranges[c]) for c in table.key if c in ranges)
    return " AND ".join(f"t.`{c}` BETWEEN CAST('{low}' AS {t}) AND CAST('{high}' AS {t})" for c, t, low, high in found)


def semi_join(rows: DataFrame, keys: DataFrame, key: Sequence[str]) -> DataFrame:
    """The rows that have one of the keys, a null being like another null."""
    same = [F.col(f"s.{c}").eqNullSafe(F.col(f"k.{c}")) for c in key]
    return rows.alias("s").join(keys.alias("k"), same, "left_semi")


def anti_join(existing: DataFrame, rows: DataFrame, key: Sequence[str]) -> DataFrame:
    """The table's rows less those that have the key of one of the rows."""
    return existing.join(rows.select(*key), list(key), "left_anti")


def differences(expected: DataFrame, existing: DataFrame, key: Sequence[str], delete: str) -> DataFrame:
    """The rows to upsert so that a table holds what is told, and those to take away, marked by column ``delete``."""
    content = [c for c in expected.columns if c not in key]
    ours, theirs = expected.alias("s"), existing.alias("t")
    on = [F.col(f"s.{c}").eqNullSafe(F.col(f"t.{c}")) for c in key]
    joined = ours.join(theirs, on, "full")
    absent, new = F.col(f"s.{key[0]}").isNull(), F.col(f"t.{key[0]}").isNull()
    differing = joined.where(absent | new | ~has_same_content(content, "s", "t"))
    values = [
        F.coalesce(F.col(f"s.{c}"), F.col(f"t.{c}")).alias(c) if c in key else F.col(f"s.{c}").alias(c)
        for c in expected.columns
    ]
    return differing.select(*values, absent.alias(delete))
