"""Conditions over a thousand columns, and values that are compared: maps, dates of any year."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakehouse.writes.conditions import all_of, any_of, is_beyond_calendar, make_comparable

WIDE = 1000


def test_a_thousand_conditions_are_one_tree(spark: SparkSession) -> None:
    wide = spark.range(3).select(*[(F.col("id") + number).alias(f"c{number}") for number in range(WIDE)])
    same, one = [F.col(f"c{n}").eqNullSafe(F.col("c0") + n) for n in range(WIDE)], [F.col("c999") == 1000] * WIDE
    rows = wide.select("c0", (all_of(same) & ~all_of([])).alias("none"), all_of(same), any_of(one), any_of([]))
    assert [tuple(row) for row in rows.collect()] == [
        (0, False, True, False, False),
        (1, False, True, True, False),
        (2, False, True, False, False),
    ]
    assert wide.where(~all_of(same)).count() == 0


EMPTY = "map_from_arrays(array(), array())"
MAPS = [
    ("map('a', 1, 'b', 2)", "map('b', 2, 'a', 1)", True),
    ("map('a', 1, 'b', 2)", "map('a', 1)", False),
    ("map('a', 1)", "map('a', 2)", False),
    ("map('a', 1)", "map('b', 1)", False),
    ("map('a', CAST(NULL AS int))", "map('a', CAST(NULL AS int))", True),
    ("map('a', CAST(NULL AS int))", "map('a', 1)", False),
    ("CAST(NULL AS map<string,int>)", "CAST(NULL AS map<string,int>)", True),
    ("CAST(NULL AS map<string,int>)", f"CAST({EMPTY} AS map<string,int>)", False),
    ("map(0.0D, 'x', double('NaN'), 'y')", "map(double('NaN'), 'y', -0.0D, 'x')", True),
    ("map(array(1, 2), 'x', array(1), 'y')", "map(array(1), 'y', array(1, 2), 'x')", True),
    ("named_struct('m', map('a', 1, 'b', 2), 'n', 1)", "named_struct('m', map('b', 2, 'a', 1), 'n', 1)", True),
    ("named_struct('m', map('a', 1, 'b', 2), 'n', 1)", "named_struct('m', map('b', 2, 'a', 1), 'n', 2)", False),
    ("array(map('a', 1, 'b', 2), null)", "array(map('b', 2, 'a', 1), null)", True),
    ("array(map('a', 1), map('b', 2))", "array(map('b', 2), map('a', 1))", False),
    ("map('x', map('a', 1, 'b', 2), 'y', null)", "map('y', null, 'x', map('b', 2, 'a', 1))", True),
    ("map('x', array(struct(map(1, 'a', 2, 'b'))))", "map('x', array(struct(map(2, 'b', 1, 'a'))))", True),
    ("map('x', array(struct(map(1, 'a', 2, 'b'))))", "map('x', array(struct(map(2, 'a', 1, 'b'))))", False),
]


def test_maps_are_equal_in_any_order(spark: SparkSession) -> None:
    cases = [(f"m{number}", *case) for number, case in enumerate(MAPS)]
    left = spark.range(1).select(*[F.expr(ours).alias(name) for name, ours, _, _ in cases])
    right = spark.range(1).select(*[F.expr(theirs).alias(name) for name, _, theirs, _ in cases])
    types = {field.name: field.dataType for field in left.schema}
    joined = left.alias("s").crossJoin(right.alias("t"))
    equal = joined.select(
        *[
            make_comparable(F.col(f"s.{name}"), types[name])
            .eqNullSafe(make_comparable(F.col(f"t.{name}"), types[name]))
            .alias(name)
            for name, _, _, _ in cases
        ]
    )
    assert equal.collect()[0].asDict() == {name: is_equal for name, _, _, is_equal in cases}


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamp_ntz"])
def test_dates_beyond_the_calendar_are_found(frame: Callable[..., DataFrame], kind: str) -> None:
    last = "" if kind == "date" else " 23:59:59.999999"
    rows = frame(
        f"""
        id | at
        1  | 0001-01-01
        2  | 9999-12-31{last}
        3  | 2024-01-01
        4  | -
        5  | +10000-01-01
        6  | 0000-12-31
        """,
        f"id int, at {kind}",
    )
    beyond = is_beyond_calendar("at", kind)
    assert beyond is not None
    assert [row["id"] for row in rows.where(beyond).select("id").collect()] == [5, 6]
    assert rows.where(~beyond).count() == 4
    assert is_beyond_calendar("id", "int") is None
