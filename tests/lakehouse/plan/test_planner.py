"""The plan says what the next run does, from logs and manifests; the run then does it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date

from delta.tables import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.sources import source
from lakehouse.definitions.tables import incremental, lookup, table
from lakehouse.definitions.write_modes import Append, History, Merge, Rebuild, Replace
from lakehouse.plan.steps import Request
from tests.lakes import ITEM_TYPES, TestLake, items_csv, items_table, landed_items, parse_items, payments_file
from tests.orders import clean, landed, mart

Lakes = Callable[..., TestLake]


def actions(lake: TestLake, **more: Request) -> dict[str, str]:
    return {name: step.action for name, step in lake.plan(**more).items()}


def test_plan_of_each_state_of_a_lake(make_lake: Lakes) -> None:
    lake = make_lake(landed.payments, clean.payments, mart.daily_revenue)
    assert actions(lake) == {"raw.payments": "none", "clean.payments": "blocked", "mart.daily_revenue": "blocked"}
    assert set(lake.run().statuses.values()) == {"unchanged", "blocked"}
    lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 1.0), (2, 1, "2024-01-05", 1.0)))
    planned = lake.plan()
    assert actions(lake) == {"raw.payments": "ingest", "clean.payments": "build", "mart.daily_revenue": "build"}
    assert planned["mart.daily_revenue"].pending_inputs == ("clean.payments",)
    assert planned["raw.payments"].bytes == (lake.folder("raw.payments") / "a").stat().st_size
    assert planned["raw.payments"].rows == 2, "a Parquet file says how many rows it has"
    assert lake.versions() == dict.fromkeys(lake.lake.graph.declarations), "a plan writes nothing"
    assert not (lake.root / "manifests").exists()

    lake.run("raw")
    assert lake.plan()["clean.payments"].rows == 2
    lake.run()
    assert set(actions(lake).values()) == {"none"}

    # A range of dates is computed again though nothing changed.
    asked = Request(since=date(2024, 1, 2), until=date(2024, 1, 5))
    step = lake.plan(request=asked)["mart.daily_revenue"]
    assert step.reasons == ("asked for by date",)
    assert step.partitions == tuple(date(2024, 1, d) for d in (2, 3, 4, 5))
    whole = lake.open_log("clean.payments")
    assert (step.rows, step.bytes) == (whole.count_rows(), whole.count_bytes()), "of the one file that holds these days"
    later = Request(since=date(2024, 2, 1), until=date(2024, 2, 5))
    assert lake.plan(request=later)["mart.daily_revenue"].rows == 0
    held = lake.content()
    done = lake.run(request=asked)
    assert {n for n, status in done.statuses.items() if status == "written"} == {"mart.daily_revenue"}
    assert done.counts("mart.daily_revenue")["written"] == 1
    assert lake.content() == held

    # A full refresh of everything makes everything anew, in the next generation.
    lake.run(full_refresh=True)
    assert [lake.record(name).generation for name in lake.lake.graph.declarations] == [2, 2, 2]
    assert lake.content() == held
    assert set(actions(lake).values()) == {"none"}

    # Without the files that the changes are read from, what reads them is built whole, and says so.
    lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 3.0)))
    lake.run("raw", "clean")
    step, merged = lake.plan()["mart.daily_revenue"], lake.open_log("clean.payments").entries(1)[0]
    assert merged.operation == "MERGE"
    assert (step.rows, step.bytes) == (1, int(merged.metrics["numTargetBytesAdded"])), "what the merge changed"
    shutil.rmtree(lake.lake.path("clean.payments") / "_change_data", ignore_errors=True)
    lake.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    DeltaTable.forPath(lake.spark, str(lake.lake.path("clean.payments"))).vacuum(0)
    step = lake.plan()["mart.daily_revenue"]
    assert (step.action, step.reasons[-1]) == ("build", "the change feed no longer reaches back so far")
    lake.run()
    assert lake.rows("mart.daily_revenue") == [(date(2024, 1, 1), 3.0, 3.0)]


def test_a_merge_is_built_whole_where_the_changes_it_needs_are_gone(make_lake: Lakes) -> None:
    withdrawable = source("raw.items", landing="items", columns=tuple(ITEM_TYPES), on_redelivery="replace")
    lake = make_lake(withdrawable, items_table(Merge()))
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,1"))
    lake.run()
    lake.land("raw.items", "1.csv", items_csv("2,1,2"))
    lake.run("raw")
    lake.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    DeltaTable.forPath(lake.spark, str(lake.lake.path("raw.items"))).vacuum(0)
    assert lake.plan()["clean.items"].action == "build"
    lake.run()
    assert lake.rows("clean.items") == [(2, 1, 2)]


def test_changed_columns(make_lake: Lakes) -> None:
    def more(items: DataFrame) -> DataFrame:
        return parse_items(items).withColumn("twice", F.col("value") * 2)

    def text(items: DataFrame) -> DataFrame:
        return parse_items(items).withColumn("value", F.col("value").cast("string"))

    ways = {
        "log": (Append(), ()),
        "items": (Merge(newest_by=("at",)), ("id",)),
        "told": (History(effective_column="at"), ("id",)),
    }

    def tables(function: Callable[[DataFrame], DataFrame], columns: dict[str, str]) -> list:
        return [
            table(f"clean.{name}", columns=columns, write=write, key=key, items="raw.items")(function)
            for name, (write, key) in ways.items()
        ]

    lake = make_lake(landed_items, *tables(parse_items, ITEM_TYPES))
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,2"))
    lake.run()
    assert not any(step.is_code_changed for step in lake.plan().values())

    added = lake.with_tables(landed_items, *tables(more, {**ITEM_TYPES, "twice": "int"}))
    for step in (added.plan()["clean.log"], added.plan()["clean.items"]):
        assert (step.schema_changes.describe(), step.is_breaking, step.is_code_changed) == (
            ("adds twice int",),
            False,
            True,
        )
    assert set(added.run().statuses.values()) == {"unchanged"}
    lake.land("raw.items", "2.csv", items_csv("2,2,3", "3,1,4"))
    added.run()
    assert added.rows("clean.items", "id", "twice") == [(1, None), (2, 6), (3, 8)]
    assert added.rows("clean.log", "id", "twice") == [(1, None), (2, None), (2, 6), (3, 8)]
    assert not any(step.schema_changes.describe() for step in added.plan().values())

    broken = lake.with_tables(landed_items, *tables(text, {**ITEM_TYPES, "value": "string"}))
    step = broken.plan()["clean.items"]
    assert step.is_breaking
    assert step.schema_changes.describe() == ("removes twice", "changes value from int to string")
    held = added.content()
    lake.land("raw.items", "3.csv", items_csv("4,1,1"))
    done = broken.attempt()
    assert set(done.errors) == {"clean.items", "clean.log", "clean.told"}
    assert "--full-refresh --select clean.items+" in done.errors["clean.items"]
    assert added.content() == held
    assert not broken.plan(request=Request(frozenset({"clean.items"})))["clean.items"].is_breaking
    broken.run("clean", full_refresh=True)
    assert broken.rows("clean.items", "id", "value") == [(1, "1"), (2, "3"), (3, "4"), (4, "1")]


def test_changes_that_affect_everything_something_or_nothing(make_lake: Lakes) -> None:
    names = source("raw.names", landing="names", columns=("id", "name"))

    def named(items: DataFrame, names: DataFrame) -> DataFrame:
        return items.join(names.select(F.col("id").try_cast("bigint").alias("id"), "name"), "id", "left").select(
            "id", "name"
        )

    shared = {"columns": {"id": "bigint", "name": "string"}, "write": Merge(), "key": ("id",), "items": "clean.items"}
    lazy = table("mart.lazy", **shared, names=lookup("raw.names"))(named)
    eager = table("mart.eager", **shared, names=lookup("raw.names", on_change="rebuild"))(named)
    lake = make_lake(landed_items, names, items_table(), lazy, eager)
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,1"))
    lake.land("raw.names", "1.csv", "id,name\n1,one\n")
    lake.run()
    lake.land("raw.names", "2.csv", "id,name\n2,two\n")
    planned = lake.plan()
    assert (planned["mart.lazy"].action, planned["mart.eager"].pending_inputs) == ("none", ("raw.names",))
    lake.run()
    assert lake.rows("mart.lazy") == [(1, "one"), (2, None)]
    assert lake.rows("mart.eager") == [(1, "one"), (2, "two")]
    lake.land("raw.items", "2.csv", items_csv("2,2,2"))
    lake.run()
    assert lake.rows("mart.lazy") == lake.rows("mart.eager") == [(1, "one"), (2, "two")]

    # A new input, and one table read by name only.
    @table("mart.lazy", **{**shared, "columns": {"id": "bigint", "name": "string"}}, names=lookup("raw.other_names"))
    def renamed(items: DataFrame, names: DataFrame) -> DataFrame:
        return named(items, names)

    others = source("raw.other_names", landing="names", columns=("id", "name"))
    changed = lake.with_tables(landed_items, names, others, items_table(), renamed, eager)
    assert changed.plan()["mart.lazy"].reasons == ("raw.other_names will change",)
    changed.run()
    assert changed.record("mart.lazy").inputs.keys() == {"clean.items", "raw.other_names"}


def test_month_partitions_and_rebuilds_in_the_plan(make_lake: Lakes) -> None:
    @table(
        "mart.months",
        columns={"month": "date", "amount": "double"},
        write=Replace(partition="month", unit="month"),
        payments=incremental("clean.payments", date_column="paid_on", affects_days=1),
    )
    def months(payments: DataFrame) -> DataFrame:
        """One row per month."""
        return payments.groupBy(F.trunc("paid_on", "month").alias("month")).agg(F.sum("amount").alias("amount"))

    @table("mart.total", columns={"amount": "double"}, write=Rebuild(), months="mart.months")
    def total(months: DataFrame) -> DataFrame:
        """One row."""
        return months.agg(F.sum("amount").alias("amount"))

    lake = make_lake(landed.payments, clean.payments, months, total)
    lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-31", 1.0), (2, 1, "2024-03-01", 2.0)))
    lake.run()
    lake.land("raw.payments", "b", payments_file((3, 1, "2024-01-31", 4.0)))
    lake.run("raw", "clean")
    planned = lake.plan()
    assert planned["mart.months"].partitions == (date(2024, 1, 1), date(2024, 2, 1)), (
        "the last day reaches into February"
    )
    done = lake.run()
    assert planned["mart.total"].action == done["mart.total"].step.action == "build"
    assert lake.rows("mart.months") == [(date(2024, 1, 1), 5.0), (date(2024, 3, 1), 2.0)]
    assert lake.rows("mart.total") == [(7.0,)]
    asked = Request(since=date(2024, 2, 10), until=date(2024, 3, 2))
    assert lake.plan(request=asked)["mart.months"].partitions == (date(2024, 2, 1), date(2024, 3, 1))
