"""Rollbacks of runs: one after another, interrupted, and after losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame

from lakehouse.definitions.tables import lookup, table
from lakehouse.definitions.write_modes import Append, Merge, Rebuild
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.deltars.writer import DeltaRsWriter
from lakehouse.engine.spark.tables import SparkTables
from lakehouse.errors import RollbackError
from lakehouse.plan.rollback import plan_rollback
from lakehouse.quality.reconciliation import reconcile
from lakehouse.writes.rollback import roll_back_tables
from tests.lakehouse.writes.test_rollback import SMALL, THREE, Lakes, adds_up, content, landed, roll_back, values, waits
from tests.lakes import ITEM_TYPES, items_csv, items_table, landed_items


def test_runs_are_rolled_back_in_turn(make_lake: Lakes) -> None:
    # A rollback is the same for every write mode, because it restores a version of Delta.
    lake = make_lake(landed_items, items_table(rules=SMALL))
    states = []
    for number in range(3):
        lake.land("raw.items", f"{number + 1}.csv", items_csv(*THREE[number]))
        lake.run(run="ABC"[number])
        states.append((content(lake), waits(lake, "clean.items")))
    end = content(lake, bronze=False)["clean.items"]
    with pytest.raises(
        RollbackError,
        match=r"clean.items was written by C, B since. Roll back the later runs first.*`lakehouse rollback C`",
    ):
        roll_back(lake, "A")
    for number in (2, 1):
        roll_back(lake, "ABC"[number])
        assert (content(lake), waits(lake, "clean.items")) == states[number - 1]
        adds_up(lake)
    assert roll_back(lake, "A").tables[0].target_version is None
    assert set(map(len, content(lake).values())) == {0}
    assert waits(lake, "clean.items") == []
    adds_up(lake)
    assert roll_back(lake, "A", by="again").tables == ()
    assert len(lake.plan()["raw.items"].files) == 3
    lake.run(run="again")
    assert [row[:3] for row in content(lake)["clean.items"]] == [row[:3] for row in end]
    ids = {row[0] for row in lake.rows("raw.items", "_file_id")}
    assert ids == {4, 5, 6}, "file numbers are never reused"
    adds_up(lake)
    with pytest.raises(
        RollbackError, match="Run rollback-B is the rollback of run B, and a rollback cannot be rolled back"
    ):
        roll_back(lake, "rollback-B")


def test_run_repeated_after_rollback_is_rolled_back(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(rules=SMALL))
    landed(lake, *THREE[:2])
    roll_back(lake, "B")
    before, waited = content(lake), waits(lake, "clean.items")
    lake.run(run="B2")
    assert lake.record("clean.items").batch == 4, "batch numbers never restart"
    roll_back(lake, "B2")
    assert (content(lake), waits(lake, "clean.items")) == (before, waited)
    results = lake.run(run="B3")
    assert results["clean.items"].step.action == "update"  # type: ignore[union-attr]
    roll_back(lake, "B3")
    roll_back(lake, "A")
    assert set(map(len, content(lake).values())) == {0}


@table(
    "mart.counted",
    columns={**ITEM_TYPES, "others": "bigint"},
    write=Merge(),
    key=("id",),
    items="clean.items",
    others=lookup("raw.others", on_change="ignore"),
)
def counted_items(items: DataFrame, others: DataFrame) -> DataFrame:
    """One row per item, with the number of other items at its last change."""
    return items.select(*ITEM_TYPES).crossJoin(others.agg({"id": "count"}).toDF("others"))


@table("mart.all", columns=ITEM_TYPES, write=Rebuild(), key=("id",), items="clean.items")
def everything(items: DataFrame) -> DataFrame:
    """One row per item."""
    return items.select(*ITEM_TYPES)


others = replace(landed_items, name="raw.others", landing="others")


def test_only_readers_of_rolled_back_rows_are_rebuilt(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, others, items_table(), counted_items, everything)
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    lake.land("raw.others", "1.csv", items_csv("1,1,1"))
    lake.run(run="A")
    lake.land("raw.items", "2.csv", items_csv("2,1,6"))
    lake.land("raw.others", "2.csv", items_csv("2,1,1"))
    lake.run("raw.items", "raw.others", "clean.items", run="B")
    lake.run("mart.counted", run="C")  # Reads the rows of B.
    planned = roll_back(lake, "B")
    assert [entry.table for entry in planned.tables] == ["clean.items", "raw.others", "raw.items"]
    assert set(planned.tables_to_rebuild) == {"mart.counted"}
    for name in ("raw.items", "raw.others"):
        (lake.folder(name) / "2.csv").unlink()
    steps = lake.plan()
    assert {name: step.action for name, step in steps.items() if step.has_work} == {"mart.counted": "build"}
    assert steps["mart.all"].reasons == ("its inputs have not changed",)
    lake.run(run="D")
    assert lake.rows("mart.counted") == [(1, 1, 5, 1)]
    # A changed lookup alone causes no run of the table, but a rollback of the lookup does.
    lake.land("raw.others", "3.csv", items_csv("3,1,1"))
    lake.run("raw.others", run="E")
    lake.land("raw.items", "3.csv", items_csv("3,1,7"))
    lake.run(run="F")
    assert lake.rows("mart.counted") == [(1, 1, 5, 1), (3, 1, 7, 2)]
    roll_back(lake, "E")
    assert lake.plan("mart.counted")["mart.counted"].action == "build"
    (lake.folder("raw.others") / "3.csv").unlink()
    lake.run(run="G")
    assert lake.rows("mart.counted") == [(1, 1, 5, 1), (3, 1, 7, 1)]


@pytest.mark.parametrize("rolled_back", [1, 2])
def test_rollback_interrupted_between_tables(
    make_lake: Lakes, monkeypatch: pytest.MonkeyPatch, rolled_back: int
) -> None:
    lake = make_lake(landed_items, items_table(rules=SMALL), everything)
    landed(lake, THREE[0])
    before, waited = content(lake), waits(lake, "clean.items")
    lake.land("raw.items", "2.csv", items_csv(*THREE[1]))
    lake.run(run="B")
    after, waited_after = content(lake, bronze=False), values(waits(lake, "clean.items"))
    restore, allowed_calls = SparkTables.restore, [None] * rolled_back

    def interrupt(*args: Any) -> None:
        allowed_calls.pop()
        restore(*args)

    with monkeypatch.context() as changed:
        changed.setattr(SparkTables, "restore", interrupt)
        with pytest.raises(IndexError):
            roll_back(lake, "B", by="cut")
    adds_up(lake)
    planned = plan_rollback(lake.lake, "B")
    assert (len(planned.tables), len(planned.completed_tables)) == (3 - rolled_back, rolled_back)
    if rolled_back < 2:  # The rollback is repeated.
        roll_back_tables(lake.engine, lake.lake, planned, Run("again", "revision"))
        assert (content(lake), waits(lake, "clean.items")) == (before, waited)
    # The next run continues from the tables that were not rolled back yet, if any.
    lake.run(run="C")
    assert (content(lake, bronze=False), values(waits(lake, "clean.items"))) == (after, waited_after)
    adds_up(lake)


def test_later_batches_are_dropped_without_losing_files(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(landed_items, items_table(Append(), key=()))
    landed(lake, THREE[0], THREE[1])
    lake.land("raw.items", "3.csv", items_csv(*THREE[2]))
    with monkeypatch.context() as changed:
        changed.setattr(DeltaRsWriter, "append", lambda *_, **__: 1 / 0)  # As killed between manifest and commit.
        assert lake.attempt(run="C").report.has_failed
    roll_back(lake, "B")
    assert {file.path for file in lake.plan()["raw.items"].files} == {"items/2.csv", "items/3.csv"}
    lake.run(run="D")
    assert lake.rows("clean.items", "id", "value") == [(1, 5), (1, 6), (2, 8), (2, 50), (3, 60), (4, 7)]
    # The records of later batches still list the rolled back batches.
    lake.land("raw.items", "4.csv", items_csv("9,9,9"))
    lake.run(run="E")
    assert lake.record("raw.items").rolled_back_batches == (2, 3, 4)
    assert {step.action for step in lake.plan().values()} == {"none"}
    adds_up(lake)


def test_loss_after_rollback_is_named(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(rules=SMALL))
    landed(lake, *THREE[:2])
    roll_back(lake, "B")
    DeltaTable(str(lake.lake.get_path("clean.items"))).delete("id = 1")
    (differences,) = [entry.differences for entry in reconcile(lake.lake) if entry.differences]
    assert any("has 0 rows, but its commits left 1" in text for text in differences)
    assert any("lacks 1 rows" in text for text in differences)
    with pytest.raises(RollbackError, match=r"clean.items was changed by another writer since: version 3, DELETE"):
        roll_back(lake, "A")


def test_missing_and_vacuumed_files_are_named(make_lake: Lakes) -> None:
    source = replace(landed_items, on_redelivery="replace")
    lake = make_lake(source, items_table())
    lake.land("raw.items", "1.csv", items_csv(*THREE[0]))
    lake.run(run="A")
    lake.land("raw.items", "1.csv", items_csv(*THREE[1]))
    lake.land("raw.items", "2.csv", items_csv(*THREE[2]))
    lake.run(run="B")
    (lake.folder("raw.items") / "2.csv").unlink()
    planned = plan_rollback(lake.lake, "B")
    assert (planned.files_to_ingest, planned.missing_files) == (("items/1.csv",), ("items/2.csv",))
    DeltaTable(str(lake.lake.get_path("raw.items"))).vacuum(0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(RollbackError, match=r"raw.items: 1 of the 1 files of version 0 are gone \(VACUUM\)"):
        roll_back(lake, "B")


def test_undeclared_tables_are_rolled_back(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(rules=SMALL))
    landed(lake, *THREE[:2])
    undeclared = lake.with_tables(landed_items, replace(items_table(), name="clean.other"))
    version = lake.version("clean.items")
    assert version is not None
    roll_back(undeclared, "B")
    assert lake.version("clean.items") == version + 1
    assert len(waits(lake, "clean.items")) == 1
    assert table_log.read_last_record(lake.lake.get_quarantine_path("clean.items")).rolled_back_run == "B"  # type: ignore[union-attr]


def test_earlier_changes_of_other_writers_reach_readers(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(), everything)
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,2"))
    lake.run(run="A")
    DeltaTable(str(lake.lake.get_path("clean.items"))).delete("id = 2")
    lake.land("raw.items", "2.csv", items_csv("3,1,3"))
    lake.run("raw", "clean", run="B")
    planned = roll_back(lake, "B")
    assert "mart.all" in planned.tables_to_rebuild
    assert lake.rows("clean.items", "id") == [(1,)]
    (lake.folder("raw.items") / "2.csv").unlink()
    lake.run()
    assert lake.rows("mart.all", "id") == [(1,)]
