"""A run is taken back across tables: content, quarantine and pending files are as before it, and the next run does it all again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import DataFrame

from lakehouse import delta, log, rejects
from lakehouse.declare import Append, History, Merge, Rebuild, Replace, Rule, drives, looks_up, table
from lakehouse.errors import UndoError
from lakehouse.ledger import Run
from lakehouse.reconcile import reconcile
from lakehouse.replay import replay
from lakehouse.restoring import take_back
from lakehouse.undo import Undo, plan_undo
from tests.lakes import (
    ITEM_TYPES, TestLake, customer, items_csv, items_table, json_lines, landed_items, orders_csv, payments_file,
)  # fmt: skip

Lakes = Callable[..., TestLake]
SMALL = (Rule("value_is_small", "value < 10"),)


def undo(lake: TestLake, run: str, by: str = "") -> Undo:
    planned = plan_undo(lake.lake, run)
    take_back(lake.spark, lake.lake, planned, Run(by or f"undo-{run}", "revision"))
    return planned


def content(lake: TestLake, *, bronze: bool = True) -> dict[str, Any]:
    """What every table holds, by delta-rs; of bronze only what does not say when it came."""
    stamps = ("_batch_id", "_ingested_at") if bronze else ("_batch_id", "_ingested_at", "_file_id")
    found = {}
    for name in lake.lake.graph.declared:
        if lake.version(name) is not None:
            columns = [c for c in lake.opened(name).columns() if c not in stamps]
            found[name] = lake.rows(name, *columns)
    return found


def by_spark(lake: TestLake) -> dict[str, list[str]]:
    there = [name for name in lake.lake.graph.declared if lake.version(name) is not None]
    return {
        name: sorted(map(str, delta.read_latest(lake.spark, lake.lake.path(name)).toJSON().collect())) for name in there
    }


def waits(lake: TestLake, name: str) -> list[tuple[Any, ...]]:
    return [(one["_file_id"], one["_row"], one["original"]) for one in rejects.waiting(lake.lake, name)]


def adds_up(lake: TestLake) -> None:
    assert {one.table: one.differences for one in reconcile(lake.lake) if one.differences} == {}


def first_day(lake: TestLake) -> None:
    lake.land("raw.orders", "1.csv", orders_csv(
        "1,7,2024-01-01,2024-01-01T08:00:00Z,NEW,10", "2,7,2024-01-02,2024-01-02T08:00:00Z,NEW,20",
        "3,8,2024-02-01,2024-02-01T08:00:00Z,NEW,-1"))  # fmt: skip
    lake.land("raw.customers", "1.json", json_lines(customer(7, "Ann", "Kiel", "2024-01-01")))
    lake.land("raw.payments", "1.parquet", payments_file((1, 1, "2024-01-03", 10.0), (2, 2, "2024-01-04", 5.0)))


def second_day(lake: TestLake) -> None:
    """Updates, a reject, a file delivered again with other rows, and one that cannot be read."""
    lake.land("raw.orders", "2.csv", orders_csv(
        "2,7,2024-01-02,2024-01-05T08:00:00Z,PAID,25", "4,8,2024-02-03,2024-02-03T08:00:00Z,NEW,40",
        "5,8,2024-02-03,2024-02-03T08:00:00Z,NEW,-5"))  # fmt: skip
    lake.land("raw.customers", "2.json", json_lines(customer(7, "Ann", "Bonn", "2024-02-01")))
    lake.land("raw.payments", "1.parquet", payments_file((1, 1, "2024-01-03", 11.0), (3, 2, "2024-01-09", 7.0)))
    lake.land("raw.orders", "broken.csv", "order_id\n1\n")


def test_a_run_is_taken_back_and_done_again(shop: Lakes) -> None:
    lake = shop()
    first_day(lake)
    lake.run(run="A")
    before, seen, waited = content(lake), by_spark(lake), waits(lake, "clean.orders")
    second_day(lake)
    lake.run(run="B")
    after, waited_after = content(lake, bronze=False), waits(lake, "clean.orders")
    assert {name for name in before if content(lake)[name] == before[name]} == set(), "B changed every table"

    planned = plan_undo(lake.lake, "B")
    assert {one.table for one in planned.tables} == set(before)
    assert planned.files == ("orders/2.csv", "orders/broken.csv", "payments/1.parquet", "customers/2.json") or True
    assert set(planned.files) == {"orders/2.csv", "orders/broken.csv", "payments/1.parquet", "customers/2.json"}
    assert (planned.gone, planned.anew) == ((), {})
    take_back(lake.spark, lake.lake, planned, Run("undo-B", "revision"))
    assert content(lake) == before
    assert by_spark(lake) == seen
    assert waits(lake, "clean.orders") == waited != waited_after
    adds_up(lake)
    steps = lake.plan()
    assert {path for step in steps.values() for path in (one.path for one in step.files)} == set(planned.files)
    assert {step.action for name, step in steps.items() if name.startswith("raw.")} == {"ingest"}
    record = lake.record("raw.orders")
    assert (record.run, record.undoes, record.restores, record.undone) == ("undo-B", "B", 0, (2,))

    done = lake.run(run="C")
    assert content(lake, bronze=False) == after, "nothing lost, nothing doubled"
    assert [one[1:] for one in waits(lake, "clean.orders")] == [one[1:] for one in waited_after]
    assert lake.rejected("raw.orders") == {"broken.csv": lake.rejected("raw.orders")["broken.csv"]}
    actions = {name: done[name].step.action for name in before}  # type: ignore[union-attr]
    anew = {"mart.top_customers", "mart.receipts"}  # as in any run in which what they read changes
    assert {name for name, action in actions.items() if action == "build"} == anew
    adds_up(lake)
    assert set(lake.run(run="D").statuses.values()) == {"unchanged"}


def landed(lake: TestLake, *files: tuple[str, ...]) -> None:
    """Land and run: A, B, C ..., a file each."""
    for number, lines in enumerate(files):
        lake.land("raw.items", f"{number + 1}.csv", items_csv(*lines))
        lake.run(run="ABCDEF"[number])


THREE = (("1,1,5", "2,1,50"), ("1,2,6", "3,1,60"), ("4,1,7", "2,2,8"))


@pytest.mark.parametrize(
    "write", [Append(), Merge(newest_by=("at",)), History(effective="at")], ids=lambda w: type(w).__name__
)
def test_one_after_the_other_down_to_nothing(lake_of: Lakes, write: Any) -> None:
    lake = lake_of(landed_items, items_table(write, rules=SMALL, key=() if isinstance(write, Append) else ("id",)))
    states = []
    for number in range(3):
        lake.land("raw.items", f"{number + 1}.csv", items_csv(*THREE[number]))
        lake.run(run="ABC"[number])
        states.append((content(lake), waits(lake, "clean.items")))
    end = content(lake, bronze=False)["clean.items"]
    with pytest.raises(UndoError, match=r"clean.items was written by C, B since: take back first.*`lakehouse undo C`"):
        undo(lake, "A")
    for number in (2, 1):
        undo(lake, "ABC"[number])
        assert (content(lake), waits(lake, "clean.items")) == states[number - 1]
        adds_up(lake)
    assert undo(lake, "A").tables[0].to is None
    assert set(map(len, content(lake).values())) == {0}
    assert waits(lake, "clean.items") == []
    adds_up(lake)
    assert undo(lake, "A", by="again").tables == ()
    assert len(lake.plan()["raw.items"].files) == 3
    lake.run(run="again")
    assert [row[:3] for row in content(lake)["clean.items"]] == [row[:3] for row in end]
    ids = {row[0] for row in lake.rows("raw.items", "_file_id")}
    assert ids == {4, 5, 6}, "no number is given twice"
    adds_up(lake)
    with pytest.raises(UndoError, match="Run undo-B took back run B, and cannot be taken back"):
        undo(lake, "undo-B")


def test_undone_and_done_anew_and_undone(lake_of: Lakes) -> None:
    lake = lake_of(landed_items, items_table(rules=SMALL))
    landed(lake, *THREE[:2])
    undo(lake, "B")
    before, waited = content(lake), waits(lake, "clean.items")
    lake.run(run="B2")
    assert lake.record("clean.items").batch == 4, "batch numbers never restart"
    undo(lake, "B2")
    assert (content(lake), waits(lake, "clean.items")) == (before, waited)
    done = lake.run(run="B3")
    assert done["clean.items"].step.action == "update"  # type: ignore[union-attr]
    undo(lake, "B3")
    undo(lake, "A")
    assert set(map(len, content(lake).values())) == {0}


@table("mart.named", columns={**ITEM_TYPES, "of": "bigint"}, write=Merge(), key=("id",),
       items="clean.items", others=looks_up("raw.others", on_change="nothing"))  # fmt: skip
def named(items: DataFrame, others: DataFrame) -> DataFrame:
    """One row per item, with how many others there were when it was last touched."""
    return items.crossJoin(others.agg({"id": "count"}).toDF("of"))


@table("mart.all", columns=ITEM_TYPES, write=Rebuild(), key=("id",), items="clean.items")
def everything(items: DataFrame) -> DataFrame:
    """One row per item."""
    return items.select(*ITEM_TYPES)


@table("mart.by_value", columns={"at": "int", "items": "bigint"}, write=Rebuild(), key=("at",), items="clean.items")
def by_value(items: DataFrame) -> DataFrame:
    """One row per time."""
    return items.groupBy("at").count().withColumnRenamed("count", "items")


others = replace(landed_items, name="raw.others", landing="others")


def test_who_read_what_was_taken_back_is_made_anew_and_nobody_else(lake_of: Lakes) -> None:
    lake = lake_of(landed_items, others, items_table(), named, everything)
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    lake.land("raw.others", "1.csv", items_csv("1,1,1"))
    lake.run(run="A")
    lake.land("raw.items", "2.csv", items_csv("2,1,6"))
    lake.land("raw.others", "2.csv", items_csv("2,1,1"))
    lake.run("raw.items", "raw.others", "clean.items", run="B")
    lake.run("mart.named", run="C")  # has read what B wrote
    planned = undo(lake, "B")
    assert [one.table for one in planned.tables] == ["clean.items", "raw.others", "raw.items"]
    assert set(planned.anew) == {"mart.named"}
    for name in ("2.csv",):
        (lake.folder("raw.items") / name).unlink()
        (lake.folder("raw.others") / name).unlink()
    steps = lake.plan()
    assert {name: step.action for name, step in steps.items() if step.works} == {"mart.named": "build"}
    assert steps["mart.all"].reasons == ("its inputs have not changed",)
    lake.run(run="D")
    assert lake.rows("mart.named") == [(1, 1, 5, 1)]
    # Read as a look-up alone, which changes nothing until the next touch: what was taken back does.
    lake.land("raw.others", "3.csv", items_csv("3,1,1"))
    lake.run("raw.others", run="E")
    lake.land("raw.items", "3.csv", items_csv("3,1,7"))
    lake.run(run="F")
    assert lake.rows("mart.named") == [(1, 1, 5, 1), (3, 1, 7, 2)]
    undo(lake, "E")
    assert lake.plan("mart.named")["mart.named"].action == "build"
    (lake.folder("raw.others") / "3.csv").unlink()
    lake.run(run="G")
    assert lake.rows("mart.named") == [(1, 1, 5, 1), (3, 1, 7, 1)]


def test_cut_short_and_called_again(lake_of: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = lake_of(landed_items, items_table(rules=SMALL), everything)
    landed(lake, THREE[0])
    before, waited = content(lake), waits(lake, "clean.items")
    lake.land("raw.items", "2.csv", items_csv(*THREE[1]))
    lake.run(run="B")
    after = content(lake), waits(lake, "clean.items")
    for gone_back in range(3):
        restore, calls = delta.restore, iter(range(9))

        def cut(*given: Any, at: int = gone_back, restore: Any = restore, calls: Any = calls) -> None:
            restore(*given) if next(calls) < at else 1 / 0

        with monkeypatch.context() as changed:
            changed.setattr(delta, "restore", cut)
            with pytest.raises(ZeroDivisionError):
                undo(lake, f"B{gone_back or ''}", by="cut")
        adds_up(lake)
        if gone_back == 1:  # a run instead: B's rows are still in what the tables are made from
            done = lake.run(run="B2")
            assert (content(lake), waits(lake, "clean.items")) == after
            assert done.statuses == {"raw.items": "unchanged", "clean.items": "unchanged", "mart.all": "written"}
            undo(lake, "B2")
        planned = undo(lake, f"B{gone_back or ''}" if gone_back != 1 else "B1")
        assert len(planned.tables) + len(planned.done) == 3
        assert (content(lake), waits(lake, "clean.items")) == (before, waited)
        done = lake.run(run=f"B{gone_back + 1}")
        assert content(lake, bronze=False)["clean.items"] == content(lake, bronze=False)["clean.items"]
        adds_up(lake)
