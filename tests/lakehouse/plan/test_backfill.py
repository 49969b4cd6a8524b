"""Past days: late and corrected files affect their partitions, backfills resume, and gaps are reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.console import Console

from lakehouse.cli.render.lake import describe_status, print_status
from lakehouse.definitions import graph
from lakehouse.definitions.tables import incremental, lookup, table
from lakehouse.definitions.write_modes import Replace
from lakehouse.deltalog.table_log import open_log
from lakehouse.plan.backfill import Gap, find_gaps
from lakehouse.plan.steps import RunRequest
from tests.lakes import TestLake, orders_csv, payments_file, set_age

Lakes = Callable[..., TestLake]
MARTS = ("mart.daily_revenue", "mart.monthly_orders")


def order(number: int, day: str, amount: float, updated: str = "") -> str:
    return f"{number},1,{day},{updated or day} 08:00:00,NEW,{amount}"


def find_changed_partitions(lake: TestLake, name: str, version: int | None) -> set[date]:
    """Return the days or months with other rows than at a version."""
    column = lake.lake.graph.declarations[name].write.partition  # type: ignore[union-attr]
    path = str(lake.lake.get_path(name))
    earlier = DeltaTable(path, version=version).to_pyarrow_table().to_pylist()
    current = DeltaTable(path).to_pyarrow_table().to_pylist()
    return {row[column] for row in [*earlier, *current] if (row in earlier) != (row in current)}


def test_late_and_corrected_files_change_only_their_partitions(make_lake: Lakes) -> None:
    shop = graph.load(["tests.orders"])
    lake = make_lake(
        *[
            shop.declarations[name]
            for name in (*shop.find_upstream("mart.daily_revenue"), *MARTS, *shop.find_upstream("mart.monthly_orders"))
        ]
    )
    for month in range(1, 13):
        days = [f"2024-{month:02}-{day:02}" for day in (3, 20)]
        lake.land(
            "raw.orders", f"{month:02}.csv", orders_csv(*[order(month * 10 + n, d, 5) for n, d in enumerate(days)])
        )
        rows = [(month * 10 + n, month * 10 + n, d, 5.0) for n, d in enumerate(days)]
        lake.land("raw.payments", f"{month:02}", payments_file(*rows))
    lake.run()

    def check_run_changes(*expected: tuple[str, set[date]]) -> None:
        versions = lake.versions()
        steps = lake.plan()
        results = lake.run()
        for name, days in expected:
            assert find_changed_partitions(lake, name, versions[name]) == days, name
            outcome = results[name].outcome
            assert outcome is not None
            partitions = getattr(results[name].step, "partitions", ())  # Without a change, a step has none.
            assert steps[name].action == "update"
            assert set(partitions) >= days
            assert len(partitions) == (outcome.partitions or 0) <= 4

    # An event of months ago, in a file that has just landed.
    lake.land("raw.orders", "late.csv", orders_csv(order(900, "2024-02-11", 7)))
    check_run_changes(("mart.monthly_orders", {date(2024, 2, 1)}))
    # A file with an old timestamp that has just landed.
    set_age(lake.land("raw.payments", "old", payments_file((901, 30, "2024-03-10", 2.0))), 300 * 86400)
    check_run_changes(("mart.daily_revenue", {date(2024, 3, 10)}))
    # A corrected file under its old name: a row moved to another month, and a row has another amount.
    moved = orders_csv(order(40, "2024-09-03", 5, "2024-12-30"), order(41, "2024-04-20", 6, "2024-12-30"))
    lake.land("raw.orders", "04.csv", moved)
    check_run_changes(("mart.monthly_orders", {date(2024, 4, 1), date(2024, 9, 1)}))
    corrected = payments_file((50, 50, "2024-05-03", 5.0), (51, 51, "2024-05-21", 5.0))
    lake.land("raw.payments", "05", corrected)
    check_run_changes(("mart.daily_revenue", {date(2024, 5, 20), date(2024, 5, 21)}))
    # The same bytes under a new timestamp change nothing.
    os.utime(lake.land("raw.payments", "05", corrected))
    assert set(lake.run().statuses.values()) == {"unchanged"}


def declare_days(rate: float = 1.0, prices: bool = False) -> list[Any]:
    """Declare the amounts of landed orders by day; with prices, also a lookup."""
    from tests.orders import clean, landed

    @table(
        "mart.days",
        columns={"day": "date", "amount": "double"},
        write=Replace(partition="day"),
        key=("day",),
        orders=incremental("clean.orders", date_column="order_date"),
        **({"customers": lookup("clean.customers")} if prices else {}),
    )
    def by_day(orders: DataFrame, customers: DataFrame | None = None) -> DataFrame:
        return orders.groupBy(F.col("order_date").alias("day")).agg((F.sum("amount") * rate).alias("amount"))

    return [landed.orders, landed.customers, clean.orders, clean.customers, by_day]


DAYS = ("2021-12-31", "2022-03-01", "2022-03-02", "2023-06-01", "2024-01-01")
RANGE = RunRequest(since=date(2021, 1, 1), until=date(2024, 1, 31))


@pytest.fixture
def filled_days(make_lake: Lakes) -> TestLake:
    lake = make_lake(*declare_days())
    lake.land("raw.orders", "1.csv", orders_csv(*[order(n, day, 5) for n, day in enumerate(DAYS)]))
    lake.run()
    return lake


def test_a_backfill_skips_partitions_that_are_current(filled_days: TestLake) -> None:
    filled_days.run(request=RANGE)

    def count_pending(lake: TestLake) -> int:
        return len(getattr(lake.plan(request=RANGE)["mart.days"], "partitions", ()))  # an idle step has none

    assert count_pending(filled_days) == 0
    assert count_pending(filled_days.with_tables(*declare_days(rate=2))) == 1126, "the code changed"
    filled_days.land("raw.orders", "2.csv", orders_csv(order(9, "2022-03-01", 5)))
    filled_days.run()
    assert filled_days.rows("mart.days")[1] == (date(2022, 3, 1), 10.0)
    assert count_pending(filled_days) == 0, "every run applies the changes of an incremental input"
    DeltaTable(str(filled_days.lake.get_path("mart.days"))).delete("day = '2022-03-02'")
    assert count_pending(filled_days) == 1126, "another writer changed the table"
    filled_days.run(request=RANGE)
    assert [day.isoformat() for (day,) in filled_days.rows("mart.days", "day")] == [*DAYS]


def test_gaps_are_reported_as_ranges(filled_days: TestLake) -> None:
    DeltaTable(str(filled_days.lake.get_path("mart.days"))).delete("day in ('2022-03-01', '2022-03-02')")
    console = Console(record=True, width=200)
    print_status(console, filled_days.lake, as_json=False)
    output = console.export_text()
    assert "gap mart.days 2022-01-01 to 2023-05-31: 516 partitions without rows; rows exist in clean.orders" in output
    assert "gap mart.days 2023-06-02 to 2023-12-31: 213 partitions without rows; its inputs have no rows" in output
    filled_days.run(request=RunRequest(since=date(2022, 3, 1), until=date(2022, 3, 2)))
    [entry] = [entry for entry in list_status_entries(filled_days) if entry["table"] == "mart.days"]
    assert [(gap["first"], gap["last"], gap["inputs_with_rows"]) for gap in entry["gaps"]] == [
        ("2022-01-01", "2022-02-28", ()),
        ("2022-03-03", "2023-05-31", ()),
        ("2023-06-02", "2023-12-31", ()),
    ]


def list_status_entries(lake: TestLake) -> list[dict[str, Any]]:
    return [describe_status(lake.lake, name) for name in lake.lake.graph.declarations]


BY_DAY = table("gold.days", columns={"day": "date"}, write=Replace("day"), items=incremental("raw.items", "day"))
BY_MONTH = table(
    "gold.months", columns={"day": "date"}, write=Replace("day", "month"), items=incremental("raw.items", "day")
)
SENTINELS = ("0001-01-01", "1900-01-01", "2024-01-01", "2024-01-03", "9999-12-31")


@pytest.mark.parametrize(
    ("declare", "existing", "landed", "expected"),
    [
        (BY_DAY, SENTINELS, SENTINELS, [Gap(date(2024, 1, 2), date(2024, 1, 2), 1)]),
        (BY_DAY, ["2024-01-01", "9999-12-31"], ["2024-01-01", "9999-12-31"], []),
        (BY_DAY, ["9999-12-31"], ["0001-01-01"], []),
        (
            BY_DAY,
            ["2024-01-01", "9999-12-31"],
            ["2024-01-02", "2024-01-03", "2100-01-01", "+10000-01-01"],
            [
                Gap(date(2024, 1, 2), date(2024, 1, 3), 2, ("raw.items",)),
                Gap(date(2100, 1, 1), date(2100, 1, 1), 1, ("raw.items",)),
            ],
        ),
        (
            BY_MONTH,
            ["0001-01-01", "2023-10-01", "2024-01-01", "9999-12-01"],
            ["2023-12-31"],
            [Gap(date(2023, 11, 1), date(2023, 12, 31), 2, ("raw.items",))],
        ),
    ],
    ids=["sentinels", "one_sentinel", "one_partition", "landed_between", "months"],
)
def test_no_gap_reaches_to_a_sentinel(
    tmp_path: Path,
    declare: Callable[..., Any],
    existing: Sequence[str],
    landed: Sequence[str],
    expected: list[Gap],
) -> None:
    logs = []
    for name, days in (("own", existing), ("input", landed)):
        numbers = [2932897 if day.startswith("+") else date.fromisoformat(day).toordinal() - 719163 for day in days]
        rows = pa.table({"day": pa.array(numbers, pa.int32()).cast(pa.date32())})
        write_deltalake(tmp_path / name, rows)
        logs.append(open_log(tmp_path / name))
    own, incoming = logs
    assert own is not None
    assert find_gaps(declare(lambda items: items), own, {"raw.items": incoming}) == expected
