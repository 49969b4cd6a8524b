"""A run is taken back across tables: content, quarantine and pending files are as before it, and the next run does it all again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse import delta, log, rejects
from lakehouse.declare import Append, Merge, Rebuild, Rule, looks_up, table
from lakehouse.errors import UndoError
from lakehouse.ledger import Run
from lakehouse.reconcile import reconcile
from lakehouse.replay import replay
from lakehouse.restoring import take_back
from lakehouse.undo import Undo, plan_undo
from tests.lakes import (
    ITEM_TYPES,
    TestLake,
    customer,
    items_csv,
    items_table,
    json_lines,
    landed_items,
    orders_csv,
    payments_file,
    typed_items,
)

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


def values(waiting: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The rejects without what says when they came."""
    return [{k: v for k, v in json.loads(one[2]).items() if not k.startswith("_")} for one in waiting]


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
    assert values(waits(lake, "clean.orders")) == values(waited_after)
    assert set(lake.rejected("raw.orders")) == {"broken.csv"}
    actions = {name: done[name].step.action for name in before}  # type: ignore[union-attr]
    anew = {"mart.top_customers", "mart.receipts"}  # as in any run in which what they read changes
    assert {name for name, action in actions.items() if action == "build"} == anew
    adds_up(lake)
    assert {step.action for step in lake.plan().values()} == {"none"}


def landed(lake: TestLake, *files: tuple[str, ...]) -> None:
    """Land and run: A, B, C ..., a file each."""
    for number, lines in enumerate(files):
        lake.land("raw.items", f"{number + 1}.csv", items_csv(*lines))
        lake.run(run="ABCDEF"[number])


THREE = (("1,1,5", "2,1,50"), ("1,2,6", "3,1,60"), ("4,1,7", "2,2,8"))


def test_one_after_the_other_down_to_nothing(lake_of: Lakes) -> None:
    # Going back is the same for every way of writing: it is Delta that knows what was written.
    lake = lake_of(landed_items, items_table(rules=SMALL))
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
    return items.select(*ITEM_TYPES).crossJoin(others.agg({"id": "count"}).toDF("of"))


@table("mart.all", columns=ITEM_TYPES, write=Rebuild(), key=("id",), items="clean.items")
def everything(items: DataFrame) -> DataFrame:
    """One row per item."""
    return items.select(*ITEM_TYPES)


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
    for name in ("raw.items", "raw.others"):
        (lake.folder(name) / "2.csv").unlink()
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


@pytest.mark.parametrize("gone_back", [1, 2])
def test_cut_short_between_tables(lake_of: Lakes, monkeypatch: pytest.MonkeyPatch, gone_back: int) -> None:
    lake = lake_of(landed_items, items_table(rules=SMALL), everything)
    landed(lake, THREE[0])
    before, waited = content(lake), waits(lake, "clean.items")
    lake.land("raw.items", "2.csv", items_csv(*THREE[1]))
    lake.run(run="B")
    after, waited_after = content(lake, bronze=False), values(waits(lake, "clean.items"))
    restore, left = delta.restore, [None] * gone_back

    def cut(*given: Any) -> None:
        left.pop()
        restore(*given)

    with monkeypatch.context() as changed:
        changed.setattr(delta, "restore", cut)
        with pytest.raises(IndexError):
            undo(lake, "B", by="cut")
    adds_up(lake)
    planned = plan_undo(lake.lake, "B")
    assert (len(planned.tables), len(planned.done)) == (3 - gone_back, gone_back)
    if gone_back < 2:  # called again
        take_back(lake.spark, lake.lake, planned, Run("again", "revision"))
        assert (content(lake), waits(lake, "clean.items")) == (before, waited)
    # or, instead, another run: what has not gone back yet is what it goes on from
    lake.run(run="C")
    assert (content(lake, bronze=False), values(waits(lake, "clean.items"))) == (after, waited_after)
    adds_up(lake)


def test_full_refresh_and_replay_are_taken_back(lake_of: Lakes) -> None:
    strict = lake_of(landed_items, items_table(rules=SMALL))
    landed(strict, *THREE[:2])
    before, waited = content(strict), waits(strict, "clean.items")
    strict.run(full_refresh=True, run="full")
    planned = undo(strict, "full")
    assert (planned.files, planned.gone, planned.anew) == ((), (), {})
    assert (content(strict), waits(strict, "clean.items")) == (before, waited)
    assert {step.action for step in strict.plan().values()} == {"none"}
    adds_up(strict)

    lake = strict.declaring(landed_items, items_table())
    assert replay(lake.session, lake.lake, "clean.items", Run("replay", "revision")).replayed == 2
    assert rejects.summaries(lake.lake)[0].outcomes == {"replayed": 2}
    undo(lake, "replay")
    assert (content(lake), waits(lake, "clean.items")) == (before, waited)
    assert rejects.summaries(lake.lake)[0].outcomes == {}
    adds_up(lake)
    assert replay(lake.session, lake.lake, "clean.items", Run("replay-2", "revision")).replayed == 2
    assert waits(lake, "clean.items") == []
    adds_up(lake)


def test_columns_that_a_run_added_go_back_with_it(lake_of: Lakes) -> None:
    lake = lake_of(landed_items, items_table())
    landed(lake, THREE[0])
    before = content(lake)
    wider = lake.declaring(landed_items, items_table(columns={**ITEM_TYPES, "more": "int"}, function=with_more))
    wider.land("raw.items", "2.csv", items_csv(*THREE[1]))
    wider.run(run="B")
    assert "more" in wider.opened("clean.items").columns()
    undo(lake, "B")
    assert content(lake) == before
    assert not lake.plan()["clean.items"].breaking
    assert lake.run(run="C")["clean.items"].step.action == "update"  # type: ignore[union-attr]


def with_more(items: DataFrame) -> DataFrame:
    return typed_items(items).withColumn("more", F.lit(1))


def test_batches_pinned_later_count_no_longer_and_no_file_is_lost(
    lake_of: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of(landed_items, items_table(Append(), key=()))
    landed(lake, THREE[0], THREE[1])
    lake.land("raw.items", "3.csv", items_csv(*THREE[2]))
    with monkeypatch.context() as changed:
        changed.setattr(delta, "append", lambda *_, **__: 1 / 0)  # killed between manifest and commit
        assert lake.attempt(run="C").report.failed
    undo(lake, "B")
    assert {one.path for one in lake.plan()["raw.items"].files} == {"items/2.csv", "items/3.csv"}
    lake.run(run="D")
    assert lake.rows("clean.items", "id", "value") == [(1, 5), (1, 6), (2, 8), (2, 50), (3, 60), (4, 7)]
    # Later batches carry on what does not count.
    lake.land("raw.items", "4.csv", items_csv("9,9,9"))
    lake.run(run="E")
    assert lake.record("raw.items").undone == (2, 3)
    assert {step.action for step in lake.plan().values()} == {"none"}
    adds_up(lake)


def test_a_loss_after_it_is_named(lake_of: Lakes) -> None:
    lake = lake_of(landed_items, items_table(rules=SMALL))
    landed(lake, *THREE[:2])
    undo(lake, "B")
    DeltaTable(str(lake.lake.path("clean.items"))).delete("id = 1")
    (said,) = [one.differences for one in reconcile(lake.lake) if one.differences]
    assert any("has 0 rows where its commits left 1" in one for one in said)
    assert any("misses 1 rows" in one for one in said)
    with pytest.raises(UndoError, match=r"clean.items was changed by another writer since: version 3, DELETE"):
        undo(lake, "A")


def test_what_cannot_be_taken_back_is_told_and_nothing_touched(lake_of: Lakes) -> None:
    lake = lake_of(landed_items, items_table())
    with pytest.raises(UndoError, match="No table has a commit of run 'A'; there is none"):
        undo(lake, "A")
    landed(lake, *THREE)
    clean = DeltaTable(str(lake.lake.path("clean.items")))
    write_deltalake(clean, clean.to_pyarrow_table().slice(0, 1), mode="append")
    versions = lake.versions()
    with pytest.raises(UndoError, match=r"commit of run 'Z'; the newest are C, B, A"):
        undo(lake, "Z")
    with pytest.raises(UndoError, match=r"another writer since: version 3, WRITE") as told:
        undo(lake, "B")
    assert "raw.items was written by C since" in str(told.value)
    for file in lake.lake.path("raw.items").glob("*.parquet"):
        file.unlink()
    with pytest.raises(UndoError, match=r"another writer since"):
        undo(lake, "C")
    clean.restore(2)  # by hand: another writer, too
    with pytest.raises(UndoError, match=r"version 4, RESTORE"):
        undo(lake, "C")
    assert lake.versions() == {**versions, "clean.items": 4}


def test_files_that_are_gone_and_files_that_vacuum_removed_are_told(lake_of: Lakes) -> None:
    source = replace(landed_items, relanded="replace")
    lake = lake_of(source, items_table())
    lake.land("raw.items", "1.csv", items_csv(*THREE[0]))
    lake.run(run="A")
    lake.land("raw.items", "1.csv", items_csv(*THREE[1]))
    lake.land("raw.items", "2.csv", items_csv(*THREE[2]))
    lake.run(run="B")
    (lake.folder("raw.items") / "2.csv").unlink()
    planned = plan_undo(lake.lake, "B")
    assert (planned.files, planned.gone) == (("items/1.csv",), ("items/2.csv",))
    DeltaTable(str(lake.lake.path("raw.items"))).vacuum(0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(UndoError, match=r"raw.items: 1 of the 1 files of version 0 are gone \(VACUUM\)"):
        undo(lake, "B")


def test_tables_of_no_graph_go_back_too(lake_of: Lakes) -> None:
    lake = lake_of(landed_items, items_table(rules=SMALL))
    landed(lake, *THREE[:2])
    alone = lake.declaring(landed_items, replace_name(items_table(), "clean.other"))
    versions = lake.version("clean.items")
    undo(alone, "B")
    assert lake.version("clean.items") == (versions or 0) + 1
    assert len(waits(lake, "clean.items")) == 1
    assert log.last_record(lake.lake.quarantine("clean.items")).undoes == "B"  # type: ignore[union-attr]


def replace_name(declared: Any, name: str) -> Any:
    return replace(declared, name=name)


def test_what_another_writer_changed_before_the_run_reaches_the_readers(lake_of: Lakes) -> None:
    lake = lake_of(landed_items, items_table(), everything)
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,2"))
    lake.run(run="A")
    DeltaTable(str(lake.lake.path("clean.items"))).delete("id = 2")
    lake.land("raw.items", "2.csv", items_csv("3,1,3"))
    lake.run("raw", "clean", run="B")
    planned = undo(lake, "B")
    assert "mart.all" in planned.anew
    assert lake.rows("clean.items", "id") == [(1,)]
    (lake.folder("raw.items") / "2.csv").unlink()
    lake.run()
    assert lake.rows("mart.all", "id") == [(1,)]
