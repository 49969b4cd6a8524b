"""Each write mode over real tables: a first run, a second run and a run with nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.sources import source
from lakehouse.definitions.tables import incremental, table
from lakehouse.definitions.write_modes import Append, History, Merge, Rebuild, Replace
from lakehouse.deltalog import table_log
from tests.lakes import (
    ITEM_TYPES,
    TestLake,
    customer,
    items_csv,
    items_table,
    json_lines,
    landed_items,
    orders_csv,
    parse_items,
    payments_file,
)
from tests.orders import clean, landed, mart

Lakes = Callable[..., TestLake]


SOURCES = (landed.orders, landed.customers)
TABLES = (clean.order_log, clean.orders, clean.customers, mart.monthly_orders, mart.top_customers)
FIRST_ORDERS = (
    "1,10,2024-01-31,2024-01-31 08:00:00,NEW,5",
    "1,10,2024-01-31,2024-01-31 09:00:00,PAID,6",
    "2,11,2024-02-01,2024-02-01 08:00:00,NEW,7",
    "3,11,2024-02-01,2024-02-01 08:00:00,NEW,-7",
)
SECOND_ORDERS = (
    "1,10,2024-01-31,2024-01-31 08:30:00,OLD,1",  # older than the existing row
    "2,11,2024-02-01,2024-02-01 08:00:00,NEW,7",  # a repeated row
    "2,11,2024-03-01,2024-02-01 07:00:00,OLD,7",  # older, from another month
    "4,12,2024-02-29,2024-02-29 08:00:00,NEW,8",
)


def test_each_write_mode_run_after_run(make_lake: Lakes) -> None:
    lake = make_lake(*SOURCES, *TABLES)
    lake.land("raw.customers", "1.json", json_lines(customer(10, "Ada", "Oslo", "2024-01-01")))
    lake.land("raw.orders", "1.csv", orders_csv(*FIRST_ORDERS))
    first = lake.run()
    assert set(first.statuses.values()) == {"written"}
    assert first.counts("clean.orders") == {"written": 2, "unchanged": 0, "superseded": 1, "quarantined": 1}
    assert first.counts("clean.order_log")["written"] == 4
    assert lake.rows("clean.orders", "order_id", "status", "amount") == [(1, "paid", 6.0), (2, "new", 7.0)]
    assert lake.rows("mart.monthly_orders") == [(date(2024, 1, 1), 1, 6.0), (date(2024, 2, 1), 1, 7.0)]
    assert lake.rows("mart.top_customers") == [(10, "Ada", 6.0), (11, None, 7.0)]

    versions = lake.versions()
    idle = lake.run()
    assert set(idle.statuses.values()) == {"unchanged"}
    assert lake.versions() == versions, "nothing landed, so nothing was written"

    lake.land("raw.orders", "2.csv", orders_csv(*SECOND_ORDERS))
    second = lake.run()
    assert second.counts("clean.orders") == {"written": 1, "unchanged": 1, "superseded": 2, "quarantined": 0}
    assert second.counts("clean.order_log") == {"written": 4, "unchanged": 0, "superseded": 0, "quarantined": 0}
    assert second["mart.monthly_orders"].step.partitions == (date(2024, 2, 1),)
    assert lake.rows("clean.orders", "order_id", "status") == [(1, "paid"), (2, "new"), (4, "new")]
    assert lake.rows("mart.monthly_orders") == [(date(2024, 1, 1), 1, 6.0), (date(2024, 2, 1), 2, 15.0)]
    assert second.statuses["raw.customers"] == second.statuses["clean.customers"] == "unchanged"
    assert lake.rows("mart.top_customers") == [(10, "Ada", 6.0), (11, None, 7.0), (12, None, 8.0)]

    lake.land("raw.customers", "2.json", json_lines(customer(12, "Cy", "Rom", "2024-01-01")))
    third = lake.run()
    assert {name for name, status in third.statuses.items() if status == "written"} == {
        "raw.customers",
        "clean.customers",
        "mart.top_customers",
    }
    assert (12, "Cy", 8.0) in lake.rows("mart.top_customers")


def test_history_does_not_depend_on_delivery_order(make_lake: Lakes) -> None:
    lake = make_lake(landed.customers, clean.customers)
    january = [customer(1, "Ada", "Oslo", "2024-01-01"), customer(2, "Bo", "Rom", "2024-01-01")]
    march = [customer(1, "Ada", "Oslo", "2024-03-01"), customer(2, "Bo", "Rom", "2024-03-01")]
    lake.land("raw.customers", "1.json", json_lines(*january))
    lake.run()
    lake.land("raw.customers", "3.json", json_lines(*march))
    results = lake.run()
    assert results.counts("clean.customers") == {"written": 0, "unchanged": 4, "superseded": 0, "quarantined": 0}
    assert lake.rows("clean.customers", "customer_id", "valid_from", "valid_to", "is_current") == [
        (1, date(2024, 1, 1), None, True),
        (2, date(2024, 1, 1), None, True),
    ]
    # A late snapshot: Ada was in Bergen in February.
    lake.land("raw.customers", "2.json", json_lines(customer(1, "Ada", "Bergen", "2024-02-01")))
    lake.run()
    assert lake.rows("clean.customers", "customer_id", "city", "valid_from", "valid_to", "is_current") == [
        (1, "Bergen", date(2024, 2, 1), date(2024, 3, 1), False),
        (1, "Oslo", date(2024, 1, 1), date(2024, 2, 1), False),
        (1, "Oslo", date(2024, 3, 1), None, True),
        (2, "Rom", date(2024, 1, 1), None, True),
    ]
    before = lake.content()
    lake.run(full_refresh=True)
    assert lake.content() == before


def test_history_quarantines_a_row_without_its_time(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(History(effective_column="at")))
    lake.land("raw.items", "1.csv", items_csv("1,,5", "2,1,5"))
    counts = lake.run().counts("clean.items")
    assert counts == {"written": 1, "unchanged": 0, "superseded": 0, "quarantined": 1}
    assert lake.rows("clean.items", "id") == [(2,)]
    assert [original["id"] for original in lake.originals("clean.items")] == ["1"]


@table(
    "mart.paid",
    columns={"payment_id": "bigint", "amount": "double"},
    write=Merge(),
    key=("payment_id",),
    payments="clean.payments",
)
def paid(payments: DataFrame) -> DataFrame:
    """One row per payment."""
    return payments.select("payment_id", "amount")


def test_late_and_withdrawn_rows_update_affected_days(make_lake: Lakes) -> None:
    lake = make_lake(landed.payments, clean.payments, mart.daily_revenue, paid)
    lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 1.0), (2, 1, "2024-01-03", 2.0)))
    lake.land("raw.payments", "b", payments_file((3, 1, "2024-01-10", 4.0), (4, 1, "2024-01-20", 8.0)))
    lake.run()
    first, third, tenth, twentieth = (date(2024, 1, d) for d in (1, 3, 10, 20))
    assert lake.rows("mart.daily_revenue") == [
        (first, 1.0, 1.0),
        (third, 2.0, 3.0),
        (tenth, 4.0, 4.0),
        (twentieth, 8.0, 8.0),
    ]

    # A late file for the second: only the two days with it in their lookback are computed again.
    second, fourth = date(2024, 1, 2), date(2024, 1, 4)
    lake.land("raw.payments", "late", payments_file((5, 1, "2024-01-02", 16.0)))
    results = lake.run()
    assert results["mart.daily_revenue"].step.partitions == (second, third, fourth)
    assert changed_days(lake) == {second, third}
    assert lake.rows("mart.daily_revenue")[:3] == [(first, 1.0, 1.0), (second, 16.0, 17.0), (third, 2.0, 19.0)]

    # File a is delivered again without payment 1, and with payment 2 on the tenth.
    lake.land("raw.payments", "a", payments_file((2, 1, "2024-01-10", 2.0)))
    results = lake.run()
    assert results.counts("raw.payments") == {"written": 1}
    assert lake.rows("raw.payments", "payment_id") == [(2,), (3,), (4,), (5,)]
    assert lake.rows("clean.payments", "payment_id", "paid_on") == [(2, tenth), (3, tenth), (4, twentieth), (5, second)]
    assert lake.rows("mart.paid", "payment_id") == [(2,), (3,), (4,), (5,)]
    assert lake.rows("mart.daily_revenue") == [(second, 16.0, 16.0), (tenth, 6.0, 6.0), (twentieth, 8.0, 8.0)]
    before = lake.content()
    lake.run(full_refresh=True)
    assert lake.content() == before


def changed_days(lake: TestLake) -> set[date]:
    log = table_log.open_log(lake.lake.get_path("mart.daily_revenue"))
    assert log is not None
    entry = log.last
    assert entry is not None
    return lake.rows_changed("mart.daily_revenue", "day", entry.version)


def test_withdrawn_rows_restore_those_of_earlier_deliveries(make_lake: Lakes) -> None:
    withdrawable = source("raw.items", landing="items", columns=tuple(ITEM_TYPES), on_redelivery="replace")
    lake = make_lake(withdrawable, items_table(Merge()))
    lake.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,5"))
    lake.run()
    lake.land("raw.items", "it's 2.csv", items_csv("1,2,6", "3,1,1"))
    lake.run()
    assert lake.rows("clean.items", "id", "value") == [(1, 6), (2, 5), (3, 1)]
    lake.land("raw.items", "it's 2.csv", items_csv())  # a header and no rows: all rows of the file are withdrawn
    lake.run()
    assert lake.rows("clean.items", "id", "value") == [(1, 5), (2, 5)]


# --- tables read from tables --------------------------------------------------------------------------------------


@table("mart.same", columns=ITEM_TYPES, write=Merge(), key=("id",), items="clean.items")
def same(items: DataFrame) -> DataFrame:
    """One row per item."""
    return items.select(*ITEM_TYPES)


@table("mart.latest", columns=ITEM_TYPES, write=Merge(newest_by=("at",)), key=("value",), items="clean.items")
def latest(items: DataFrame) -> DataFrame:
    """One row per value: the latest item that has it."""
    return items.select(*ITEM_TYPES)


def test_a_merge_over_several_commits_takes_latest_rows(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(), same)
    lake.land("raw.items", "1.csv", items_csv("1,1,10", "2,1,10"))
    lake.run()
    for number in (2, 3):
        lake.land("raw.items", f"{number}.csv", items_csv(f"1,{number},{number}0", f"2,{number},{90 - number}"))
        lake.run("raw", "clean")
    lake.run()
    assert lake.rows("mart.same") == lake.rows("clean.items") == [(1, 3, 30), (2, 3, 87)]


def test_a_shared_key_survives_its_newest_row(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(), latest)
    lake.land("raw.items", "1.csv", items_csv("1,1,7", "2,2,7"))
    lake.run()
    assert lake.rows("mart.latest", "id", "value") == [(2, 7)]
    lake.land("raw.items", "2.csv", items_csv("2,3,8"))  # item 2 has another value now
    lake.run()
    before = lake.rows("mart.latest", "id", "value")
    lake.run("mart", full_refresh=True)
    assert before == lake.rows("mart.latest", "id", "value") == [(1, 7), (2, 8)]


@table("mart.arrivals", columns=ITEM_TYPES, write=Append(), items="clean.items")
def arrivals(items: DataFrame) -> DataFrame:
    """One row per new item."""
    return items.select(*ITEM_TYPES)


def test_an_append_after_a_rebuild_adds_no_duplicates(make_lake: Lakes) -> None:
    withdrawable = source("raw.items", landing="items", columns=tuple(ITEM_TYPES), on_redelivery="replace")
    lake = make_lake(withdrawable, items_table(), arrivals)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    lake.land("raw.items", "2.csv", items_csv("2,1,1", "3,1,1"))
    lake.run()
    lake.land("raw.items", "2.csv", items_csv("2,1,1"))
    lake.run()
    ids = [number for (number,) in lake.rows("mart.arrivals", "id")]
    assert len(ids) == len(set(ids)), f"items {ids}"


@table(
    "mart.days",
    columns={"day": "date", "items": "bigint"},
    write=Replace(partition="day"),
    items=incremental("clean.dated", date_column="day"),
)
def days(items: DataFrame) -> DataFrame:
    """One row per day."""
    return items.groupBy("day").agg(F.count("*").alias("items"))


@table("clean.dated", columns={"id": "bigint", "day": "date"}, write=Merge(), key=("id",), items="raw.items")
def dated(items: DataFrame) -> DataFrame:
    """One row per item, its day null where `at` is."""
    day = F.date_add(F.lit(date(2024, 1, 1)), F.col("at").try_cast("int"))
    return items.select(F.col("id").try_cast("bigint").alias("id"), day.alias("day"), "_file_id", "_row")


def test_rows_without_a_day_are_in_no_partition(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, dated, days)
    lake.land("raw.items", "1.csv", items_csv("1,0,1", "2,,1"))
    lake.run()
    lake.land("raw.items", "2.csv", items_csv("3,0,1", "4,,1"))
    lake.run()
    before = lake.content()
    lake.run("mart", full_refresh=True)
    assert lake.content() == before


def test_an_empty_first_delivery_makes_empty_tables(make_lake: Lakes) -> None:
    @table("mart.all", columns=ITEM_TYPES, write=Rebuild(), items="clean.items")
    def everything(items: DataFrame) -> DataFrame:
        """One row per item."""
        return items.select(*ITEM_TYPES)

    lake = make_lake(landed_items, items_table(), everything)
    lake.land("raw.items", "1.csv", items_csv())
    results = lake.run()
    assert sum(results.counts("clean.items").values()) == 0
    assert lake.content() == {"clean.items": [], "mart.all": []}
    lake.land("raw.items", "2.csv", items_csv())
    lake.land("raw.items", "3.csv", items_csv("1,1,1"))
    lake.run()
    assert lake.content() == {"clean.items": [(1, 1, 1)], "mart.all": [(1, 1, 1)]}


def test_without_order_columns_the_last_delivery_counts(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(Merge(), parse_items))
    lake.land("raw.items", "b.csv", items_csv("1,1,1"))
    lake.run()
    lake.land("raw.items", "a.csv", items_csv("1,1,2"))
    lake.run()
    assert lake.rows("clean.items", "value") == [(2,)]
    lake.run(full_refresh=True)
    assert lake.rows("clean.items", "value") == [(2,)], "a.csv was delivered after b.csv"
