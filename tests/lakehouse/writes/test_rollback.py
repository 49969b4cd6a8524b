"""A rollback restores content, quarantine and pending files across tables, and the next run repeats the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.rules import Rule
from lakehouse.deltalog.commit_record import Run
from lakehouse.errors import RollbackError
from lakehouse.plan.rollback import RollbackPlan, plan_rollback
from lakehouse.plan.steps import Ingest
from lakehouse.quality import quarantine
from lakehouse.quality.reconciliation import reconcile
from lakehouse.writes.replay import replay_rejects
from lakehouse.writes.rollback import roll_back_tables
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

Lakes = Callable[..., TestLake]
SMALL = (Rule("value_is_small", "value < 10"),)


def roll_back(lake: TestLake, run: str, by: str = "") -> RollbackPlan:
    plan = plan_rollback(lake.lake, run)
    roll_back_tables(lake.engine, lake.lake, plan, Run(by or f"rollback-{run}", "revision"))
    return plan


def content(lake: TestLake, *, bronze: bool = True) -> dict[str, Any]:
    """Read the rows of every table by delta-rs, without the ingestion columns of bronze."""
    ingestion_columns = ("_batch_id", "_ingested_at") if bronze else ("_batch_id", "_ingested_at", "_file_id")
    rows = {}
    for name in lake.lake.graph.declarations:
        if lake.version(name) is not None:
            columns = [c for c in lake.open_log(name).read_columns() if c not in ingestion_columns]
            rows[name] = lake.rows(name, *columns)
    return rows


def by_spark(lake: TestLake) -> dict[str, list[str]]:
    tables = [name for name in lake.lake.graph.declarations if lake.version(name) is not None]
    return {
        name: sorted(map(str, lake.engine.open_tables().read_latest(lake.lake.get_path(name)).toJSON().collect()))
        for name in tables
    }


def waits(lake: TestLake, name: str) -> list[tuple[Any, ...]]:
    rejects = quarantine.find_pending_rejects(lake.lake, name)
    return [(reject["_file_id"], reject["_row"], reject["original"]) for reject in rejects]


def values(pending: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return the originals of the rejects without the platform's columns."""
    originals = [json.loads(original) for _, _, original in pending]
    return [{name: value for name, value in row.items() if not name.startswith("_")} for row in originals]


def adds_up(lake: TestLake) -> None:
    assert {entry.table: entry.differences for entry in reconcile(lake.lake) if entry.differences} == {}


def first_day(lake: TestLake) -> None:
    orders = (
        "1,7,2024-01-01,2024-01-01T08:00:00Z,NEW,10",
        "2,7,2024-01-02,2024-01-02T08:00:00Z,NEW,20",
        "3,8,2024-02-01,2024-02-01T08:00:00Z,NEW,-1",
    )
    lake.land("raw.orders", "1.csv", orders_csv(*orders))
    lake.land("raw.customers", "1.json", json_lines(customer(7, "Ann", "Kiel", "2024-01-01")))
    lake.land("raw.payments", "1.parquet", payments_file((1, 1, "2024-01-03", 10.0), (2, 2, "2024-01-04", 5.0)))


def second_day(lake: TestLake) -> None:
    """Land updates, a reject, a redelivered file with other rows, and a file that cannot be read."""
    orders = (
        "2,7,2024-01-02,2024-01-05T08:00:00Z,PAID,25",
        "4,8,2024-02-03,2024-02-03T08:00:00Z,NEW,40",
        "5,8,2024-02-03,2024-02-03T08:00:00Z,NEW,-5",
    )
    lake.land("raw.orders", "2.csv", orders_csv(*orders))
    lake.land("raw.customers", "2.json", json_lines(customer(7, "Ann", "Bonn", "2024-02-01")))
    lake.land("raw.payments", "1.parquet", payments_file((1, 1, "2024-01-03", 11.0), (3, 2, "2024-01-09", 7.0)))
    lake.land("raw.orders", "broken.csv", "order_id\n1\n")


def test_a_run_is_rolled_back_and_repeated(shop: Lakes) -> None:
    lake = shop()
    first_day(lake)
    lake.run(run="A")
    before, before_by_spark, pending = content(lake), by_spark(lake), waits(lake, "clean.orders")
    second_day(lake)
    lake.run(run="B")
    after, pending_after = content(lake, bronze=False), waits(lake, "clean.orders")
    assert {name for name in before if content(lake)[name] == before[name]} == set(), "B changed every table"

    plan = plan_rollback(lake.lake, "B")
    assert {rollback.table for rollback in plan.tables} == set(before)
    files = {"orders/2.csv", "orders/broken.csv", "payments/1.parquet", "customers/2.json"}
    assert set(plan.files_to_ingest) == files
    assert (plan.missing_files, plan.tables_to_rebuild) == ((), {})
    roll_back_tables(lake.engine, lake.lake, plan, Run("rollback-B", "revision"))
    assert content(lake) == before
    assert by_spark(lake) == before_by_spark
    assert waits(lake, "clean.orders") == pending != pending_after
    adds_up(lake)
    steps = lake.plan()
    ingests = [step for step in steps.values() if isinstance(step, Ingest)]
    assert {file.path for step in ingests for file in step.files} == set(plan.files_to_ingest)
    assert {step.action for name, step in steps.items() if name.startswith("raw.")} == {"ingest"}
    record = lake.record("raw.orders")
    assert (record.run, record.rolled_back_run) == ("rollback-B", "B")
    assert (record.restored_version, record.rolled_back_batches) == (0, (2, 3))

    results = lake.run(run="C")
    assert content(lake, bronze=False) == after, "no row is lost or duplicated"
    assert values(waits(lake, "clean.orders")) == values(pending_after)
    assert set(lake.rejected("raw.orders")) == {"broken.csv"}
    actions = {name: results[name].step.action for name in before}  # type: ignore[union-attr]
    rebuilt = {"mart.top_customers", "mart.receipts"}  # as in any run with changed inputs
    assert {name for name, action in actions.items() if action == "build"} == rebuilt
    adds_up(lake)
    assert {step.action for step in lake.plan().values()} == {"none"}


def landed(lake: TestLake, *files: tuple[str, ...]) -> None:
    """Land each file in a run of its own: A, B, C ..."""
    for number, lines in enumerate(files):
        lake.land("raw.items", f"{number + 1}.csv", items_csv(*lines))
        lake.run(run="ABCDEF"[number])


THREE = (("1,1,5", "2,1,50"), ("1,2,6", "3,1,60"), ("4,1,7", "2,2,8"))


def test_full_refresh_and_replay_are_rolled_back(make_lake: Lakes) -> None:
    strict = make_lake(landed_items, items_table(rules=SMALL))
    landed(strict, *THREE[:2])
    before, pending = content(strict), waits(strict, "clean.items")
    strict.run(full_refresh=True, run="full")
    plan = roll_back(strict, "full")
    assert (plan.files_to_ingest, plan.missing_files, plan.tables_to_rebuild) == ((), (), {})
    assert (content(strict), waits(strict, "clean.items")) == (before, pending)
    assert {step.action for step in strict.plan().values()} == {"none"}
    adds_up(strict)

    lake = strict.with_tables(landed_items, items_table())
    assert replay_rejects(lake.engine, lake.lake, "clean.items", Run("replay", "revision")).replayed == 2
    assert quarantine.summarize_quarantines(lake.lake)[0].outcomes == {"replayed": 2}
    roll_back(lake, "replay")
    assert (content(lake), waits(lake, "clean.items")) == (before, pending)
    assert quarantine.summarize_quarantines(lake.lake)[0].outcomes == {}
    adds_up(lake)
    assert replay_rejects(lake.engine, lake.lake, "clean.items", Run("replay-2", "revision")).replayed == 2
    assert waits(lake, "clean.items") == []
    adds_up(lake)


def test_rollback_removes_the_columns_of_the_run(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table())
    landed(lake, THREE[0])
    before = content(lake)
    wider = lake.with_tables(landed_items, items_table(columns={**ITEM_TYPES, "more": "int"}, function=with_more))
    wider.land("raw.items", "2.csv", items_csv(*THREE[1]))
    wider.run(run="B")
    assert "more" in wider.open_log("clean.items").read_columns()
    roll_back(lake, "B")
    assert content(lake) == before
    assert not lake.plan()["clean.items"].is_breaking
    assert lake.run(run="C")["clean.items"].step.action == "update"  # type: ignore[union-attr]


def with_more(items: DataFrame) -> DataFrame:
    return parse_items(items).withColumn("more", F.lit(1))


def test_a_rejected_rollback_changes_nothing(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table())
    with pytest.raises(RollbackError, match=r"No table has a commit of run 'A'\. No run can be rolled back;"):
        roll_back(lake, "A")
    landed(lake, *THREE)
    clean = DeltaTable(str(lake.lake.get_path("clean.items")))
    write_deltalake(clean, clean.to_pyarrow_table().slice(0, 1), mode="append")
    versions = lake.versions()
    with pytest.raises(RollbackError, match=r"commit of run 'Z'\. The newest runs are C, B, A;"):
        roll_back(lake, "Z")
    with pytest.raises(RollbackError, match=r"another writer since: version 3, WRITE") as raised:
        roll_back(lake, "B")
    assert "raw.items was written by C since" in str(raised.value)
    for file in lake.lake.get_path("raw.items").glob("*.parquet"):
        file.unlink()
    with pytest.raises(RollbackError, match=r"another writer since"):
        roll_back(lake, "C")
    clean.restore(2)  # by hand: another writer, too
    with pytest.raises(RollbackError, match=r"version 4, RESTORE"):
        roll_back(lake, "C")
    assert lake.versions() == {**versions, "clean.items": 4}
