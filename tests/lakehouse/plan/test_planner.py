"""The plan predicts the next run from logs and manifests, and the run executes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import date

import deltalake as delta_rs
import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.sources import source
from lakehouse.definitions.tables import incremental, lookup, table
from lakehouse.definitions.write_modes import Append, History, Merge, Rebuild, Replace
from lakehouse.plan.steps import RunRequest, Step
from tests.lakehouse.writes.test_rollback import roll_back
from tests.lakes import ITEM_TYPES, TestLake, items_csv, items_table, landed_items, parse_items, payments_file
from tests.orders import clean, landed, mart

Lakes = Callable[..., TestLake]


def plan_actions(lake: TestLake) -> dict[str, str]:
    return {name: step.action for name, step in lake.plan().items()}


def test_the_plan_in_each_state_of_a_lake(make_lake: Lakes) -> None:
    lake = make_lake(landed.payments, clean.payments, mart.daily_revenue)
    assert plan_actions(lake) == {"raw.payments": "none", "clean.payments": "blocked", "mart.daily_revenue": "blocked"}
    assert set(lake.run().statuses.values()) == {"unchanged", "blocked"}
    lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 1.0), (2, 1, "2024-01-05", 1.0)))
    steps = lake.plan()
    assert plan_actions(lake) == {"raw.payments": "ingest", "clean.payments": "build", "mart.daily_revenue": "build"}
    assert steps["mart.daily_revenue"].pending_inputs == ("clean.payments",)
    assert steps["raw.payments"].bytes == (lake.folder("raw.payments") / "a").stat().st_size
    assert steps["raw.payments"].rows == 2, "a Parquet file has its row count"
    assert lake.versions() == dict.fromkeys(lake.lake.graph.declarations), "a plan writes nothing"
    assert not (lake.root / "manifests").exists()

    lake.run("raw")
    assert lake.plan()["clean.payments"].rows == 2
    lake.run()
    assert set(plan_actions(lake).values()) == {"none"}

    # A backfill recomputes a range of dates without any change.
    request = RunRequest(since=date(2024, 1, 2), until=date(2024, 1, 5))
    step = lake.plan(request=request)["mart.daily_revenue"]
    assert step.reasons == ("backfill",)
    assert step.partitions == tuple(date(2024, 1, d) for d in (2, 3, 4, 5))
    log = lake.open_log("clean.payments")
    assert (step.rows, step.bytes) == (log.count_rows(), log.count_bytes()), "one file has the rows of these days"
    later = RunRequest(since=date(2024, 2, 1), until=date(2024, 2, 5))
    assert lake.plan(request=later)["mart.daily_revenue"].rows == 0
    content = lake.content()
    results = lake.run(request=request)
    assert {n for n, status in results.statuses.items() if status == "written"} == {"mart.daily_revenue"}
    assert results.counts("mart.daily_revenue")["written"] == 1
    assert lake.content() == content

    # A full refresh rebuilds every table, in the next generation.
    lake.run(full_refresh=True)
    assert [lake.record(name).generation for name in lake.lake.graph.declarations] == [2, 2, 2]
    assert lake.content() == content
    assert set(plan_actions(lake).values()) == {"none"}

    # A table is rebuilt if the files of the change feed are gone. The reason says so.
    lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 3.0)))
    lake.run("raw", "clean")
    step, merge = lake.plan()["mart.daily_revenue"], lake.open_log("clean.payments").read_entries(1)[0]
    assert merge.operation == "MERGE"
    assert (step.rows, step.bytes) == (1, int(merge.metrics["numTargetBytesAdded"])), "the merge changed one row"
    shutil.rmtree(lake.lake.get_path("clean.payments") / "_change_data", ignore_errors=True)
    lake.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    DeltaTable.forPath(lake.spark, str(lake.lake.get_path("clean.payments"))).vacuum(0)
    step = lake.plan()["mart.daily_revenue"]
    assert (step.action, step.reasons[-1]) == ("build", "the change data feed of an input has expired")
    lake.run()
    assert lake.rows("mart.daily_revenue") == [(date(2024, 1, 1), 3.0, 3.0)]


def test_a_table_is_rebuilt_without_its_change_feed(make_lake: Lakes) -> None:
    replaceable = source("raw.items", landing="items", columns=tuple(ITEM_TYPES), on_redelivery="replace")
    lake = make_lake(replaceable, items_table(Merge()))
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,1"))
    lake.run()
    lake.land("raw.items", "1.csv", items_csv("2,1,2"))
    lake.run("raw")
    lake.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    DeltaTable.forPath(lake.spark, str(lake.lake.get_path("raw.items"))).vacuum(0)
    assert lake.plan()["clean.items"].action == "build"
    lake.run()
    assert lake.rows("clean.items") == [(2, 1, 2)]


def test_added_and_conflicting_columns(make_lake: Lakes) -> None:
    def add_column(items: DataFrame) -> DataFrame:
        return parse_items(items).withColumn("twice", F.col("value") * 2)

    def change_type(items: DataFrame) -> DataFrame:
        return parse_items(items).withColumn("value", F.col("value").cast("string"))

    write_modes = {
        "log": (Append(), ()),
        "items": (Merge(newest_by=("at",)), ("id",)),
        "history": (History(effective_column="at"), ("id",)),
    }

    def declare_tables(function: Callable[[DataFrame], DataFrame], columns: dict[str, str]) -> list:
        return [
            table(f"clean.{name}", columns=columns, write=write, key=key, items="raw.items")(function)
            for name, (write, key) in write_modes.items()
        ]

    lake = make_lake(landed_items, *declare_tables(parse_items, ITEM_TYPES))
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,2"))
    lake.run()
    assert not any(step.is_code_changed for step in lake.plan().values())

    added = lake.with_tables(landed_items, *declare_tables(add_column, {**ITEM_TYPES, "twice": "int"}))
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

    broken = lake.with_tables(landed_items, *declare_tables(change_type, {**ITEM_TYPES, "value": "string"}))
    step = broken.plan()["clean.items"]
    assert step.is_breaking
    assert step.schema_changes.describe() == ("removes twice", "changes value from int to string")
    content = added.content()
    lake.land("raw.items", "3.csv", items_csv("4,1,1"))
    results = broken.attempt()
    assert set(results.errors) == {"clean.items", "clean.log", "clean.history"}
    assert "--full-refresh --select clean.items+" in results.errors["clean.items"]
    assert added.content() == content
    assert not broken.plan(request=RunRequest(frozenset({"clean.items"})))["clean.items"].is_breaking
    broken.run("clean", full_refresh=True)
    assert broken.rows("clean.items", "id", "value") == [(1, "1"), (2, "3"), (3, "4"), (4, "1")]


def test_effects_of_a_changed_lookup(make_lake: Lakes) -> None:
    names = source("raw.names", landing="names", columns=("id", "name"))

    def join_names(items: DataFrame, names: DataFrame) -> DataFrame:
        return items.join(names.select(F.col("id").try_cast("bigint").alias("id"), "name"), "id", "left").select(
            "id", "name"
        )

    shared = {"columns": {"id": "bigint", "name": "string"}, "write": Merge(), "key": ("id",), "items": "clean.items"}
    lazy = table("mart.lazy", **shared, names=lookup("raw.names"))(join_names)
    eager = table("mart.eager", **shared, names=lookup("raw.names", on_change="rebuild"))(join_names)
    lake = make_lake(landed_items, names, items_table(), lazy, eager)
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,1"))
    lake.land("raw.names", "1.csv", "id,name\n1,one\n")
    lake.run()
    lake.land("raw.names", "2.csv", "id,name\n2,two\n")
    steps = lake.plan()
    assert (steps["mart.lazy"].action, steps["mart.eager"].pending_inputs) == ("none", ("raw.names",))
    lake.run()
    assert lake.rows("mart.lazy") == [(1, "one"), (2, None)]
    assert lake.rows("mart.eager") == [(1, "one"), (2, "two")]
    lake.land("raw.items", "2.csv", items_csv("2,2,2"))
    lake.run()
    assert lake.rows("mart.lazy") == lake.rows("mart.eager") == [(1, "one"), (2, "two")]

    # The table gets a new input.
    @table("mart.lazy", **{**shared, "columns": {"id": "bigint", "name": "string"}}, names=lookup("raw.other_names"))
    def lazy_with_other_names(items: DataFrame, names: DataFrame) -> DataFrame:
        return join_names(items, names)

    others = source("raw.other_names", landing="names", columns=("id", "name"))
    changed = lake.with_tables(landed_items, names, others, items_table(), lazy_with_other_names, eager)
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
    steps = lake.plan()
    assert steps["mart.months"].partitions == (date(2024, 1, 1), date(2024, 2, 1)), (
        "the last day of January affects February"
    )
    results = lake.run()
    assert steps["mart.total"].action == results["mart.total"].step.action == "build"
    assert lake.rows("mart.months") == [(date(2024, 1, 1), 5.0), (date(2024, 3, 1), 2.0)]
    assert lake.rows("mart.total") == [(7.0,)]
    request = RunRequest(since=date(2024, 2, 10), until=date(2024, 3, 2))
    assert lake.plan(request=request)["mart.months"].partitions == (date(2024, 2, 1), date(2024, 3, 1))


@table("mart.items", columns=ITEM_TYPES, write=Merge(), key=("id",), items="clean.items")
def items_mart(items: DataFrame) -> DataFrame:
    """One row per item."""
    return items.select(*ITEM_TYPES)


def name_foreign_commits(steps: Mapping[str, Step | None]) -> dict[str, list[str]]:
    commits = {name: step.foreign_commits for name, step in steps.items() if step}
    return {
        name: [f"{commit.table} {commit.version} {commit.operation}" for commit in of_table]
        for name, of_table in commits.items()
        if of_table
    }


def write_foreign_row(lake: TestLake, name: str, number: int) -> None:
    path = str(lake.lake.get_path(name))
    row = delta_rs.DeltaTable(path).to_pyarrow_table().slice(0, 1)
    delta_rs.write_deltalake(path, row.set_column(0, row.schema.field(0), pa.array([number])), mode="append")


def test_foreign_rows_are_named_before_they_flow(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(), items_mart)
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    lake.run()
    write_foreign_row(lake, "clean.items", 99)
    assert name_foreign_commits(lake.plan()) == {"clean.items": ["clean.items 1 WRITE"]}
    assert name_foreign_commits({r.table: r.step for r in lake.run().report.results}) == {
        "clean.items": ["clean.items 1 WRITE"]
    }
    lake.land("raw.items", "2.csv", items_csv("2,1,5"))
    results = lake.run()
    assert name_foreign_commits({r.table: r.step for r in results.report.results}) == {
        "clean.items": ["clean.items 1 WRITE"],
        "mart.items": ["clean.items 1 WRITE"],
    }
    assert lake.rows("mart.items") == [(1, 1, 5), (2, 1, 5), (99, 1, 5)]
    assert name_foreign_commits(lake.plan()) == {}
    lake.land("raw.items", "3.csv", items_csv("3,1,5"))
    assert name_foreign_commits(lake.plan()) == {}
    lake.run()
    assert name_foreign_commits(lake.plan(request=RunRequest(frozenset({"mart.items"})))) == {
        "mart.items": ["clean.items 1 WRITE"]
    }


def test_maintenance_is_no_foreign_commit(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(), items_mart)
    for number in (1, 2):
        lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,5"))
        lake.run()
        for name in lake.lake.graph.declarations:
            own_table = delta_rs.DeltaTable(str(lake.lake.get_path(name)))
            own_table.optimize.compact()
            own_table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
            lake.spark.sql(f"ALTER TABLE delta.`{lake.lake.get_path(name)}` SET TBLPROPERTIES ('note' = 'x')")
    assert name_foreign_commits(lake.plan()) == {}
    delta_rs.DeltaTable(str(lake.lake.get_path("raw.items"))).delete("id = '1'")
    delta_rs.DeltaTable(str(lake.lake.get_path("mart.items"))).update(updates={"value": "7"})
    names = {name: commits[0].split()[2] for name, commits in name_foreign_commits(lake.plan()).items()}
    assert names == {"raw.items": "DELETE", "mart.items": "UPDATE"}


def test_rebuilt_tables_have_no_foreign_rows(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(), items_mart)
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    lake.run()
    write_foreign_row(lake, "clean.items", 99)
    lake.run("clean.items", full_refresh=True)
    assert name_foreign_commits(lake.plan()) == {}
    write_foreign_row(lake, "clean.items", 98)
    lake.land("raw.items", "2.csv", items_csv("2,1,5"))
    lake.run("raw.items", "clean.items", run="two")
    assert name_foreign_commits(lake.plan()) == {"mart.items": ["clean.items 3 WRITE"]}
    lake.land("raw.items", "3.csv", items_csv("3,1,5"))
    lake.run("raw.items", "clean.items", run="three")
    roll_back(lake, "three")
    assert name_foreign_commits(lake.plan("mart.items")) == {"mart.items": ["clean.items 3 WRITE"]}
    roll_back(lake, "two")
    lake.run()
    assert name_foreign_commits(lake.plan()) == {}
