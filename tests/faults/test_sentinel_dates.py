"""Sentinel dates: 9999-12-31 and 0001-01-01 are data, and a date of another era stops no table and no command."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from rich.console import Console

from lakehouse.cli.render.lake import print_status
from lakehouse.cli.render.plans import print_plan
from lakehouse.cli.render.rows import print_rows
from lakehouse.definitions.sources import ORIGIN_COLUMNS, source
from lakehouse.definitions.tables import incremental, table
from lakehouse.definitions.write_modes import Append, History, Merge, Replace
from lakehouse.deltalog.sql import query
from lakehouse.plan.planner import plan_steps
from lakehouse.plan.steps import RunRequest
from lakehouse.quality.reconciliation import reconcile
from lakehouse.spark import parse, unparsed
from tests.lakes import TestLake

Lakes = Callable[..., TestLake]
FIRST, LAST = date(1, 1, 1), date(9999, 12, 31)
SALES = {"id": "bigint", "day": "date", "amount": "bigint"}
HEADER = "id,day,amount\n"
landed_sales = source("raw.sales", landing="sales", columns=tuple(SALES))


@table("silver.sales", columns=SALES, key=("id",), write=Merge(), sales="raw.sales")
def sales(sales: DataFrame) -> DataFrame:
    """One row per sale."""
    return sales.select(*[parse(c, kind).alias(c) for c, kind in SALES.items()], unparsed(SALES), *ORIGIN_COLUMNS)


@table(
    "gold.days",
    columns={"day": "date", "amount": "bigint", "two_days": "bigint"},
    write=Replace("day"),
    sales=incremental("silver.sales", date_column="day", lookback_days=1, affects_days=1),
)
def days(sales: DataFrame) -> DataFrame:
    """One row per day with sales."""
    by_day = sales.groupBy("day").agg(F.sum("amount").alias("amount"))
    number = F.datediff("day", F.lit(date(2024, 1, 1)))
    two_days = F.sum("amount").over(Window.orderBy(number).rangeBetween(-1, 0))
    return by_day.select("day", "amount", two_days.alias("two_days"))


@table(
    "gold.months",
    columns={"month": "date", "amount": "bigint"},
    write=Replace("month", "month"),
    sales=incremental("silver.sales", date_column="day"),
)
def months(sales: DataFrame) -> DataFrame:
    """One row per month with sales."""
    return sales.groupBy(F.trunc("day", "month").alias("month")).agg(F.sum("amount").alias("amount"))


def read(lake: TestLake) -> str:
    """Print what the commands print that only read, and check that no table has a difference."""
    console = Console(file=io.StringIO(), width=200)
    print_status(console, lake.lake, as_json=False)
    print_plan(console, lake.lake, plan_steps(lake.lake, lake.lake.graph.declarations, RunRequest()), as_json=False)
    for name in lake.lake.graph.declarations:
        if lake.version(name) is not None:
            result = query(lake.root / "lake", f"SELECT * FROM {name}")
            print_rows(console, result, as_json=False)
            print_rows(console, result, as_json=True)
    differences = [difference for result in reconcile(lake.lake) for difference in result.differences]
    assert differences == []
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_sentinels_are_ordinary_dates(make_lake: Lakes) -> None:
    lake = make_lake(landed_sales, sales, days, months)
    lake.land("raw.sales", "first.csv", HEADER + "1,2024-01-01,1\n2,2024-01-02,2\n")
    lake.run()
    lake.land("raw.sales", "second.csv", HEADER + "3,2024-01-03,3\n4,9999-12-31,4\n5,0001-01-01,5\n")
    assert "gap" not in read(lake)
    second = lake.run()
    assert second["gold.days"].step.partitions == (FIRST, date(1, 1, 2), date(2024, 1, 3), date(2024, 1, 4), LAST)
    assert lake.rows("gold.days") == [
        (FIRST, 5, 5),
        (date(2024, 1, 1), 1, 1),
        (date(2024, 1, 2), 2, 3),
        (date(2024, 1, 3), 3, 5),
        (LAST, 4, 4),
    ]
    assert lake.rows("gold.months") == [(FIRST, 5), (date(2024, 1, 1), 6), (date(9999, 12, 1), 4)]
    output = read(lake)
    assert "9999-12-31" in output
    assert "gap" not in output

    # A day that no other reader has, and a sentinel that moves to the day before.
    lake.land("raw.sales", "third.csv", HEADER + "6,45292,6\n7,+10000-01-01,7\n4,9999-12-30,4\n8,2024-01-06,8\n")
    third = lake.run()
    assert third.counts("silver.sales") == {"written": 2, "unchanged": 0, "superseded": 0, "quarantined": 2}
    assert [original["day"] for original in lake.originals("silver.sales")] == ["45292", "+10000-01-01"]
    assert {rules for [rules] in lake.quarantine("silver.sales", "rules") for rules in rules} == {"parsed: day"}
    assert lake.rows("gold.days")[3:] == [
        (date(2024, 1, 3), 3, 5),
        (date(2024, 1, 6), 8, 8),
        (date(9999, 12, 30), 4, 4),
    ]
    assert "gap gold.days 2024-01-04 to 2024-01-05: 2 partitions without rows" in read(lake)
    before = lake.content()
    lake.run(full_refresh=True)
    assert lake.content() == before


TYPED = {
    "id": "bigint",
    "day": "date",
    "at": "timestamp",
    "on": "array<date>",
    "more": "struct<times:map<string,array<timestamp>>>",
}
typed = source("raw.typed", landing="typed", columns=TYPED, format="parquet")


def typed_file(*rows: tuple[int, int, int, int]) -> bytes:
    """Return a file of ids, each with three numbers of days since 1970: of the columns, the list and the map."""
    ids, *numbers = zip(*rows, strict=True)
    days, listed, mapped = (pa.array(values, pa.int32()).cast(pa.date32()) for values in numbers)
    offsets = pa.array(range(len(rows) + 1), pa.int32())
    times = pa.ListArray.from_arrays(offsets, mapped.cast(pa.timestamp("us", "UTC")))
    maps = pa.MapArray.from_arrays(offsets, pa.array(["a"] * len(rows)), times)
    columns = {
        "id": ids,
        "day": days,
        "at": days.cast(pa.timestamp("us", "UTC")),
        "on": pa.ListArray.from_arrays(offsets, listed),
        "more": pa.StructArray.from_arrays([maps], ["times"]),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@table("silver.typed", columns=TYPED, write=Append(), typed="raw.typed")
def appended(typed: DataFrame) -> DataFrame:
    """One row per landed row."""
    return typed.select(*TYPED, *ORIGIN_COLUMNS)


@table(
    "gold.counts",
    columns={"day": "date", "count": "bigint"},
    write=Replace("day"),
    typed=incremental("raw.typed", date_column="day", lookback_days=1, affects_days=1),
)
def counts(typed: DataFrame) -> DataFrame:
    """One row per day."""
    return typed.groupBy("day").agg(F.count("*").alias("count"))


def test_landed_dates_of_another_era_stop_nothing(make_lake: Lakes) -> None:
    lake = make_lake(typed, appended, counts)
    year_10000, year_0, new_year = 2932897, -719163, 19723
    lake.land("raw.typed", "1", typed_file((1, *[new_year] * 3), (2, *[year_10000] * 3)))
    first = lake.run()
    assert first.counts("silver.typed") == {"written": 1, "unchanged": 0, "superseded": 0, "quarantined": 1}
    assert first.counts("gold.counts") == {"written": 1, "quarantined": 1}
    assert lake.quarantine("silver.typed", "rules") == [(["parsed: day", "parsed: at", "parsed: on", "parsed: more"],)]
    assert "10000-01-01" in read(lake)
    later = [(3, *[year_0] * 3), (4, *[year_10000] * 3), (5, *[year_10000 - 1] * 3)]
    lake.land("raw.typed", "2", typed_file(*later))
    lake.run("raw")
    assert "rows of raw.typed with day 0001-12-31 (BC) are in no partition" in read(lake)
    second = lake.run()
    assert second.counts("silver.typed") == {"written": 1, "unchanged": 0, "superseded": 0, "quarantined": 2}
    assert lake.rows("silver.typed", "id", "day") == [(1, date(2024, 1, 1)), (5, LAST)]
    assert lake.rows("gold.counts") == [(date(2024, 1, 1), 1), (LAST, 1)]
    only_nested = [(7, new_year, year_10000, new_year), (8, new_year, new_year, year_0)]
    lake.land("raw.typed", "3", typed_file((6, *[year_10000] * 3), *only_nested))
    third = lake.run()
    assert third.counts("silver.typed") == {"written": 0, "unchanged": 0, "superseded": 0, "quarantined": 3}
    assert sorted(lake.quarantine("silver.typed", "rules"))[-2:] == [(["parsed: more"],), (["parsed: on"],)]
    read(lake)
    before = lake.content()
    lake.run("gold", full_refresh=True)
    assert lake.content() == before


@pytest.mark.parametrize("has_snapshots", [False, True], ids=["events", "snapshots"])
def test_an_unreadable_time_ends_no_version(make_lake: Lakes, has_snapshots: bool) -> None:
    history = History(effective_column="day", has_snapshots=has_snapshots)

    @table("silver.prices", columns=SALES, key=("id",), write=history, sales="raw.sales")
    def prices(sales: DataFrame) -> DataFrame:
        """One row per version of a price."""
        return sales.withColumn("day", F.col("day").cast("date")).select(
            F.col("id").cast("bigint").alias("id"),
            "day",
            F.col("amount").cast("bigint").alias("amount"),
            *ORIGIN_COLUMNS,
        )

    lake = make_lake(landed_sales, prices)
    lake.land("raw.sales", "1.csv", HEADER + "1,2024-01-01,1\n2,2024-01-01,2\n")
    lake.run()
    lake.land("raw.sales", "2.csv", HEADER + "1,+10000-01-01,3\n")
    lake.run()
    assert lake.rows("silver.prices", "id", "amount", "valid_to") == [(1, 1, None), (2, 2, None)]
    lake.land("raw.sales", "3.csv", HEADER + "1,9999-12-31,4\n2,9999-12-31,2\n")
    lake.run()
    expected = [(1, 1, LAST), (1, 4, None), (2, 2, None)]
    assert sorted(lake.rows("silver.prices", "id", "amount", "valid_to"), key=str) == sorted(expected, key=str)


def test_times_of_sentinels_merge(make_lake: Lakes) -> None:
    types = {"at": "timestamp", "value": "int"}
    landed = source("raw.times", landing="times", columns=tuple(types))

    @table("silver.times", columns=types, key=("at",), write=Merge(newest_by=("value",)), times="raw.times")
    def times(times: DataFrame) -> DataFrame:
        """One row per time."""
        return times.select(*[parse(c, kind).alias(c) for c, kind in types.items()], unparsed(types), *ORIGIN_COLUMNS)

    lake = make_lake(landed, times)
    ends = ("0001-01-01 00:00:00", "9999-12-31 23:59:59.999999")
    for value in range(3):
        lines = [f"{at},{value}" for at in (*ends, "+10000-01-01 00:00:00")]
        lake.land("raw.times", f"{value}.csv", "\n".join(["at,value", *lines, ""]))
        lake.run()
        read(lake)
    sql = "SELECT strftime(\"at\"::TIMESTAMP, '%Y-%m-%d %H:%M:%S.%f') AS time, value FROM silver.times ORDER BY ALL"
    assert [(row["time"].zfill(26), row["value"]) for row in query(lake.root / "lake", sql).to_pylist()] == [
        ("0001-01-01 00:00:00.000000", 2),
        ("9999-12-31 23:59:59.999999", 2),
    ]
    assert [original["at"] for original in lake.originals("silver.times")] == ["+10000-01-01 00:00:00"] * 3
