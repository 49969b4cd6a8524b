"""Great Expectations: a table is validated before a reader can see its new rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.catalog import Suites
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import source
from lakehouse.definitions.tables import Table, incremental, table
from lakehouse.definitions.write_modes import Append, History, Merge, Rebuild, Replace, WriteMode
from lakehouse.quality import report
from tests.browser import open_page
from tests.lakes import TestLake, items_csv, items_table, landed_items

Lakes = Callable[..., TestLake]
MEAN_BELOW_10 = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "value", "max_value": 10}}
TWO_ROWS = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 2}}


@pytest.fixture
def expecting(tmp_path: Path) -> Callable[..., TestLake]:
    """Return a function that adds a suite of expectations for one table to a lake."""

    def add(lake: TestLake, *expectations: dict[str, Any], name: str = "clean.items") -> TestLake:
        suites = Suites(tmp_path / "expectations", tmp_path / "data_docs")
        suites.get_path(name).parent.mkdir(parents=True, exist_ok=True)
        suites.get_path(name).write_text(json.dumps({"name": name, "expectations": expectations}))
        return replace(lake, lake=replace(lake.lake, suites=suites))

    return add


def test_no_reader_sees_a_failed_batch(make_lake: Lakes, expecting: Callable[..., TestLake]) -> None:
    lake = expecting(make_lake(landed_items, items_table()), MEAN_BELOW_10, TWO_ROWS)
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    error = lake.attempt().errors["clean.items"]
    assert error.startswith(
        f"clean.items: the suite {lake.lake.suites and lake.lake.suites.get_path('clean.items')} failed: "
    )
    assert "expect_table_row_count_to_be_between(min_value=2), observed 1. Nothing was written; see " in error
    assert lake.version("clean.items") is None, "a failed first batch leaves no table"

    lake.land("raw.items", "2.csv", items_csv("2,1,5", "3,1,x"))
    assert lake.run().counts("clean.items") == {"written": 2, "unchanged": 0, "superseded": 0, "quarantined": 1}
    before = (lake.version("clean.items"), lake.rows("clean.items"))

    lake.land("raw.items", "3.csv", items_csv("1,2,100"))
    assert (
        "expect_column_mean_to_be_between(column='value', max_value=10.0), observed 52.5"
        in lake.attempt().errors["clean.items"]
    )
    assert (lake.version("clean.items"), lake.rows("clean.items")) == before
    lake.land("raw.items", "4.csv", items_csv("1,3,1"))
    lake.run()
    assert lake.rows("clean.items") == [(1, 3, 1), (2, 1, 5)]


def test_unchanged_rows_count_in_a_mean(make_lake: Lakes, expecting: Callable[..., TestLake]) -> None:
    lake = expecting(make_lake(landed_items, items_table()), MEAN_BELOW_10, TWO_ROWS)
    lake.land("raw.items", "1.csv", items_csv(*(f"{n},1,5" for n in range(9))))
    lake.run()
    lake.land("raw.items", "2.csv", items_csv("0,2,40"))
    lake.run()
    assert lake.rows("clean.items")[0] == (0, 2, 40)


def test_only_critical_expectations_stop_a_table(
    make_lake: Lakes, expecting: Callable[..., TestLake], caplog: pytest.LogCaptureFixture
) -> None:
    lake = expecting(make_lake(landed_items, items_table()), {**TWO_ROWS, "severity": "warning"}, MEAN_BELOW_10)
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    lake.run()
    assert lake.rows("clean.items") == [(1, 1, 5)]
    assert "clean.items: expect_table_row_count_to_be_between(min_value=2), observed 1" in caplog.text


days = source("raw.days", landing="days", columns=("day", "id", "value"))
DAY_TYPES = {"day": "date", "id": "bigint", "value": "int"}


def parse_days(days: DataFrame) -> DataFrame:
    return days.select(*[F.col(c).try_cast(kind).alias(c) for c, kind in DAY_TYPES.items()], "_file_id", "_row")


def days_table(write: WriteMode) -> Table:
    key = () if isinstance(write, Append) else ("id",)
    return table("clean.items", columns=DAY_TYPES, write=write, key=key, days="raw.days")(parse_days)


def sum_by_day(write: WriteMode) -> Table:
    def function(items: DataFrame) -> DataFrame:
        return items.groupBy("day").agg(F.sum("value").alias("value"))

    rules = (Rule("day_is_known", "day IS NOT NULL"),)
    inputs = (
        {"items": incremental("clean.items", date_column="day")}
        if isinstance(write, Replace)
        else {"items": "clean.items"}
    )
    return table(
        "mart.days", columns={"day": "date", "value": "bigint"}, write=write, key=("day",), rules=rules, **inputs
    )(function)


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("clean.items", [days_table(Append())]),
        ("clean.items", [days_table(Merge(newest_by=("day",)))]),
        ("clean.items", [days_table(History(effective_column="day"))]),
        ("mart.days", [days_table(Merge(newest_by=("day",))), sum_by_day(Replace(partition="day"))]),
        ("mart.days", [days_table(Merge(newest_by=("day",))), sum_by_day(Rebuild())]),
    ],
    ids=["Append", "Merge", "History", "Replace", "Rebuild"],
)
def test_every_write_mode_validates_the_whole_table(
    make_lake: Lakes, expecting: Callable[..., TestLake], name: str, tables: list[Table]
) -> None:
    lake = expecting(make_lake(days, *tables), MEAN_BELOW_10, name=name)
    lake.land("raw.days", "1.csv", "day,id,value\n2024-01-01,1,1\n2024-01-02,2,2\n")
    lake.run()
    lake.land("raw.days", "2.csv", "day,id,value\n2024-01-03,3,20\n")
    lake.run()  # 23 in three rows
    before = (lake.version(name), lake.rows(name))
    assert len(before[1]) == 3
    lake.land("raw.days", "3.csv", "day,id,value\n2024-01-04,3,90\n")
    error = lake.attempt().errors[name]
    assert "expect_column_mean_to_be_between(column='value', max_value=10.0), observed" in error
    assert (lake.version(name), lake.rows(name)) == before
    if name == "clean.items":
        return
    lake.land("raw.days", "4.csv", "day,id,value\n2024-01-05,3,4\n")
    lake.run()
    assert [row[1] for row in lake.rows(name)] == [1, 2, 4]


def test_data_docs_show_the_newest_results(
    make_lake: Lakes, expecting: Callable[..., TestLake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS_PER_TABLE", 2)
    lake = expecting(make_lake(landed_items, items_table()), MEAN_BELOW_10, TWO_ROWS)
    for number in range(4):
        lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,{number * 20}"))
        lake.attempt(run=f"run-{number}")
    assert lake.lake.suites is not None
    docs = lake.lake.suites.data_docs
    assert sorted(file.name for file in docs.glob("results/clean/items/*")) == ["run-2.json", "run-3.json"]
    (docs / "results" / "clean" / "items" / "run-2.json").write_text('{"cut sho')
    lake.land("raw.items", "4.csv", items_csv("9,1,100"))
    lake.attempt(run="run-3")
    assert len(list(docs.glob("results/clean/items/*"))) == 2
    requests: list[str] = []
    with open_page(report.get_index_path(docs), requests) as page:
        assert page.locator("tr").all_inner_texts()[1:] == ["run-3\tclean.items\tnot met\t1 of 2"]
        page.get_by_text("run-3").click()
        text = page.inner_text("body")
        assert "Status: Failed" in " ".join(text.split())
        assert "value mean must be less than or equal to 10.0." in text
        assert 'expect_column_mean_to_be_between\n\ncolumn = "value" max_value = 10.0' in text
        assert page.locator("dl").all_inner_texts() == ["value\n44.0", "value\n5"], "failed expectations come first"
        assert page.locator(".failed:visible").count() == 2, "of the suite and of the mean"
        assert page.locator(".met:visible").count() == 1
        assert page.locator("a:visible").all_inner_texts() == ["All results"]
        page.get_by_text("All results").click()
        assert page.locator("tr").count() == 2
    assert requests
    assert all(address.startswith("file:") for address in requests), "the browser asks no other host"
