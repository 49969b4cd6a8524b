"""Rules, quarantine and accounting over real tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import source
from lakehouse.definitions.tables import incremental, lookup, table
from lakehouse.definitions.write_modes import Append, History, Merge, Rebuild, Replace
from lakehouse.writes import audit
from tests.lakes import ITEM_TYPES, TestLake, items_csv, items_table, landed_items, orders_csv, parse_items
from tests.orders import clean, landed

Lakes = Callable[..., TestLake]
MODES = (Append(), Merge(newest_by=("at",)), History(effective_column="at"))


def test_rejects_keep_their_original_and_warnings_the_row(make_lake: Lakes) -> None:
    lake = make_lake(landed.orders, clean.orders)
    lines = (
        "1,10,2024-01-01,2024-01-01 08:00:00,NEW,5",
        "2,10,2024-01-01,2024-01-01 08:00:00,NEW,20000",  # unusual, but written
        "3,10,2024-01-01,2024-01-01 08:00:00,NEW,-5",
        ",10,,2024-01-01 08:00:00,NEW,5",  # breaks two rules
        "5,10,2024-13-01,2024-01-01 08:00:00,NEW,five",  # no date, no amount
        "6,10,2024-01-01",  # too few columns
        "7,10,2024-01-01,2024-01-01 08:00:00,NEW,5,6",  # too many
        '8,10,2024-01-01,2024-01-01 08:00:00,"N""E, W",5',
    )
    lake.land("raw.orders", "1.csv", orders_csv(*lines))
    results = lake.run(run="first")
    assert results.counts("clean.orders") == {"written": 3, "unchanged": 0, "superseded": 0, "quarantined": 5}
    outcome = results["clean.orders"].outcome
    assert outcome is not None
    assert outcome.warnings == {"amount_is_usual": 1}
    assert lake.rows("clean.orders", "order_id", "status") == [(1, "new"), (2, "new"), (8, 'n"e, w')]

    rejects = lake.quarantine("clean.orders", "_row", "rules", "_source_file", "_file_id", "batch", "generation", "run")
    file = ("orders/1.csv", 1, 1, 1, "first")
    assert rejects == [
        (3, ["amount_is_not_negative"], *file),
        (4, ["key_is_not_null", "day_is_known"], *file),
        (5, ["day_is_known", "parsed: order_date", "parsed: amount"], *file),
        (6, ["well_formed"], *file),
        (7, ["well_formed"], *file),
    ]
    originals = {original["_row"]: original for original in lake.originals("clean.orders")}
    assert originals[5]["order_date"] == "2024-13-01"
    assert originals[5]["amount"] == "five"
    assert originals[6]["_malformed"] == lines[5]
    assert originals[7]["_malformed"] == lines[6]
    assert originals[4]["order_id"] is None
    platform_columns = {"_malformed", "_file_id", "_row", "_source_file", "_batch_id", "_ingested_at"}
    assert set(originals[3]) == {*landed.orders.columns, *platform_columns}
    [(at,)] = set(lake.quarantine("clean.orders", "quarantined_at"))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 3600
    check_failing_batch(lake)


def check_failing_batch(lake: TestLake) -> None:
    """Check that a batch fails with a row that violates a failing rule, and that every later attempt fails, too."""
    before, version = lake.content(), lake.version("clean.orders")
    future = lake.land("raw.orders", "2.csv", orders_csv("9,10,2100-01-01,2024-01-01 08:00:00,NEW,5"))
    failed = lake.attempt()
    assert "not_from_the_future" in failed.errors["clean.orders"]
    assert "1 rows" in failed.errors["clean.orders"]
    assert (lake.content(), lake.version("clean.orders")) == (before, version)
    assert lake.attempt().report.has_failed
    assert len(lake.quarantine("clean.orders")) == 5
    assert future.exists()


@pytest.mark.parametrize("write", MODES, ids=lambda write: type(write).__name__)
def test_functions_that_drop_or_duplicate_rows_fail(make_lake: Lakes, write: Any) -> None:
    def drops(items: DataFrame) -> DataFrame:
        return parse_items(items).where("value <> 6")

    def duplicates(items: DataFrame) -> DataFrame:
        return parse_items(items).withColumn("value", F.explode(F.array("value", F.col("value") + 1)))

    key = {} if isinstance(write, Append) else {"key": ("id",)}
    good = make_lake(landed_items, items_table(write, **{"key": (), **key}))
    good.land("raw.items", "1.csv", items_csv("1,1,5"))
    good.run()
    before, version = good.content(), good.version("clean.items")
    good.land("raw.items", "2.csv", items_csv("2,1,6", "3,1,7"))
    for function in (drops, duplicates):
        lake = good.with_tables(landed_items, items_table(write, function, **{"key": (), **key}))
        error = lake.attempt().errors["clean.items"]
        assert "rows came in" in error
        assert "nothing was written" in error
        assert (lake.content(), lake.version("clean.items")) == (before, version)
        assert good.quarantine("clean.items") == []
    good.run()
    assert [row[0] for row in good.rows("clean.items", "id")] == [1, 2, 3]


def test_a_dropped_and_a_duplicate_row_fail_together(make_lake: Lakes) -> None:
    def swaps(items: DataFrame) -> DataFrame:
        twice = F.when(F.col("value") == 6, F.array("id")).otherwise(F.array("id", F.col("id") + 100))
        return parse_items(items).where("value <> 5").withColumn("id", F.explode(twice))

    lake = make_lake(landed_items, items_table(Merge(), swaps))
    lake.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,6", "3,1,7"))
    assert "clean.items" in lake.attempt().errors
    assert lake.version("clean.items") is None


def test_keys_that_share_a_hash_are_no_duplicates(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_key_hash", lambda _: F.lit(1))
    lake = make_lake(landed_items, items_table())
    for file, lines, superseded in (("1.csv", ("1,1,1", "2,1,1"), 0), ("2.csv", ("3,1,1", "4,1,1", "4,2,2"), 1)):
        lake.land("raw.items", file, items_csv(*lines))
        counts = lake.run().counts("clean.items")
        assert counts == {"written": 2, "unchanged": 0, "superseded": superseded, "quarantined": 0}


def test_an_empty_lookup_hides_no_dropped_rows(make_lake: Lakes) -> None:
    def joined(items: DataFrame, names: DataFrame) -> DataFrame:
        return (
            parse_items(items)
            .join(names.select(F.col("id").cast("bigint").alias("id")), "id")
            .select(*ITEM_TYPES, "_unparsed", "_file_id", "_row")
        )

    names = source("raw.names", landing="names", columns=("id",))
    lake = make_lake(landed_items, names, items_table(Append(), joined, key=(), names=lookup("raw.names")))
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    lake.land("raw.names", "1.csv", "id\n")
    error = lake.attempt().errors["clean.items"]
    assert "1 rows came in" in error
    assert lake.version("clean.items") is None


def test_a_function_must_keep_the_origin_columns(make_lake: Lakes) -> None:
    def forgets(items: DataFrame) -> DataFrame:
        return parse_items(items).drop("_file_id", "_row")

    lake = make_lake(landed_items, items_table(Merge(), forgets))
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    error = lake.attempt().errors.get("clean.items", "")
    assert "_file_id" in error
    assert "_row" in error


def test_the_error_lists_all_undeclared_columns(make_lake: Lakes) -> None:
    def other(items: DataFrame) -> DataFrame:
        return parse_items(items).drop("value").withColumns({"at": F.lit("now"), "more": F.lit(1)})

    lake = make_lake(landed_items, items_table(Merge(), other))
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    error = lake.attempt().errors["clean.items"]
    for problem in ("value is missing", "at is string, declared int", "more is not declared"):
        assert problem in error


# --- whole tables -------------------------------------------------------------------------------------------------

POSITIVE = (Rule("total_is_positive", "total > 0"),)


def dated(items: DataFrame) -> DataFrame:
    day = F.date_add(F.lit(datetime(2024, 1, 1)).cast("date"), F.col("at").try_cast("int"))
    number, value = F.col("id").try_cast("bigint"), F.col("value").try_cast("int")
    return items.select(number.alias("id"), day.alias("day"), value.alias("value"), "_file_id", "_row")


clean_dated = table(
    "clean.dated",
    columns={"id": "bigint", "day": "date", "value": "int"},
    write=Merge(),
    key=("id",),
    items="raw.items",
)(dated)


@table(
    "mart.days",
    columns={"day": "date", "total": "bigint"},
    write=Replace(partition="day"),
    key=("day",),
    rules=POSITIVE,
    items=incremental("clean.dated", date_column="day"),
)
def by_day(items: DataFrame) -> DataFrame:
    """One row per day."""
    return items.groupBy("day").agg(F.sum("value").alias("total"))


@table(
    "mart.values",
    columns={"value": "int", "items": "bigint"},
    write=Rebuild(),
    key=("value",),
    rules=(Rule("many", "items > 0"),),
    items="clean.dated",
)
def by_value(items: DataFrame) -> DataFrame:
    """One row per value."""
    return items.groupBy("value").agg(F.count("*").alias("items"))


def test_whole_tables_quarantine_rows_by_rule_and_key(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, clean_dated, by_day, by_value)
    lake.land("raw.items", "1.csv", items_csv("1,0,5", "2,1,-5", "3,2,"))
    results = lake.run()
    assert results.counts("mart.days") == {"written": 1, "quarantined": 2}
    assert [original["day"] for original in lake.originals("mart.days")] == ["2024-01-02", "2024-01-03"]
    assert lake.rows("mart.values") == [(-5, 1), (5, 1)], "a row without its key is quarantined"
    assert lake.quarantine("mart.values", "rules") == [(["key_is_not_null"],)]


def test_malformed_json_is_quarantined_line_by_line(make_lake: Lakes) -> None:
    columns = {"id": "bigint", "at": "int", "value": "int"}
    json_items = source("raw.items", landing="items", format="json", columns=columns)
    lake = make_lake(json_items, items_table(Merge(), as_landed))
    lines = ('{"id": 1, "at": 1, "value": 1}', '{"id": 2, "at": 1, "val', '{"id": "three", "at": 1, "value": 1}', "[]")
    lake.land("raw.items", "1.json", "\n".join(lines) + "\n")
    counts = lake.run().counts("clean.items")
    assert counts["written"] == 1
    assert {original["_malformed"] for original in lake.originals("clean.items")} == set(lines[1:])


def as_landed(items: DataFrame) -> DataFrame:
    return items.select(*ITEM_TYPES, "_file_id", "_row")
