"""Runs: their records, failures, interruption and resumption."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pyarrow as pa
import pytest
from delta.tables import DeltaTable
from deltalake import write_deltalake
from pyspark.sql import DataFrame, SparkSession

from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.sources import source
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import Append, Merge
from lakehouse.deltalog.commit_record import InputVersion, Record, Run, build_application_id
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.errors import LedgerError, SessionError
from lakehouse.plan.steps import RunRequest
from lakehouse.runs.report import RunListener, TableResult
from lakehouse.runs.scheduler import run_tables
from tests.faults.compare import assert_same, content
from tests.faults.deliveries import FIRST, land
from tests.faults.processes import Order, Runs
from tests.lakes import ITEM_TYPES, TestLake, items_csv, items_table, landed_items
from tests.orders import landed

Lakes = Callable[..., TestLake]


@table("mart.copies", columns=ITEM_TYPES, write=Merge(), key=("id",), items="clean.items")
def copies(items: DataFrame) -> DataFrame:
    """One row per item."""
    return items.select(*ITEM_TYPES)


@table("mart.behind", columns=ITEM_TYPES, write=Append(), items="mart.broken")
def second(items: DataFrame) -> DataFrame:
    return items


@table("mart.further", columns=ITEM_TYPES, write=Append(), items="mart.behind")
def third(items: DataFrame) -> DataFrame:
    return items


def assert_batches_are_fenced(lake: TestLake, record: Record) -> None:
    # A run that has not seen the third batch fails to commit it again. Its rows are not written.
    rows = lake.spark.createDataFrame([(9, 9, 9, 9, 9)], "id long, at int, value int, _file_id long, _row long")
    target = Target("clean.items", lake.lake.get_path("clean.items"), ("id",))
    late = Commit("clean.items", replace(record, run="late"))
    assert late.transaction == (build_application_id("clean.items", 1), 3)
    tables = lake.engine.open_tables()
    content_before = lake.content()
    for attempt in (
        lambda: tables.append(rows, target, late),
        lambda: tables.merge(rows, target, late, ("id",), "", None),
        lambda: tables.replace(rows, target, late, "id = 9"),
        lambda: tables.overwrite(rows, target, late),
    ):
        with pytest.raises(LedgerError, match="batch 3 was not committed by this run"):
            attempt()
    assert lake.content() == content_before

    # A merge leaves no transaction in the session. Otherwise Delta would skip the next write.
    tables.merge(rows, target, Commit("clean.items", replace(record, run="fourth", batch=4)), ("id",), "", None)
    for name in ("commitInfo.userMetadata", "write.txnAppId", "write.txnVersion"):
        assert tables.spark.conf.get(f"spark.databricks.delta.{name}", None) is None
    assert (9, 9, 9) in lake.rows("clean.items")


def test_records_fence_maintenance_and_generations(make_lake: Lakes) -> None:
    items = items_table()
    lake = make_lake(landed_items, items, copies)
    lake.land("raw.items", "1.csv", items_csv("1,1,1", "2,1,1", "2,1,1"))
    lake.run(run="first")
    raw = lake.record("raw.items")
    assert (raw.run, raw.revision, raw.batch, raw.generation, raw.files) == ("first", "revision", 1, 1, 1)
    assert raw.fingerprint == compute_fingerprint(landed_items)
    record = lake.record("clean.items")
    assert record.inputs == {"raw.items": InputVersion(lake.version("raw.items") or 0, 1)}
    assert record.rows == {"written": 2, "unchanged": 0, "superseded": 1, "quarantined": 0}
    assert record.fingerprint == compute_fingerprint(items)

    # Maintenance commits have no record and cause no update. The next update reads across them.
    lake.land("raw.items", "2.csv", items_csv("3,1,1"))
    lake.run(run="second")
    DeltaTable.forPath(lake.spark, str(lake.lake.get_path("raw.items"))).optimize().executeCompaction()
    DeltaTable.forPath(lake.spark, str(lake.lake.get_path("clean.items"))).optimize().executeCompaction()
    lake.spark.sql(f"ALTER TABLE delta.`{lake.lake.get_path('clean.items')}` SET TBLPROPERTIES ('a.b' = 'c')")
    versions = lake.versions()
    assert versions["clean.items"] == 3, "0 build, 1 second batch, 2 OPTIMIZE, 3 ALTER"
    assert {step.action for step in lake.plan().values()} == {"none"}
    assert set(lake.run().statuses.values()) == {"unchanged"}
    assert lake.versions() == versions
    assert lake.record("clean.items").run == "second"
    lake.land("raw.items", "3.csv", items_csv("3,2,2", "4,1,1"))
    report = lake.run(run="third")
    assert report.counts("clean.items") == {"written": 2, "unchanged": 0, "superseded": 0, "quarantined": 0}
    assert lake.rows("mart.copies") == lake.rows("clean.items") == [(1, 1, 1), (2, 1, 1), (3, 2, 2), (4, 1, 1)]
    record = lake.record("clean.items")
    assert (record.batch, record.generation) == (3, 1)

    assert_batches_are_fenced(lake, record)

    # A rebuild increases the generation and the batch number. Readers are rebuilt, too.
    lake.run("clean", full_refresh=True)
    record = lake.record("clean.items")
    assert (record.batch, record.generation) == (5, 2)
    assert lake.plan()["mart.copies"].reasons == ("clean.items was rebuilt",)
    lake.run()
    assert lake.rows("mart.copies") == lake.rows("clean.items")
    assert len(lake.rows("mart.copies")) == 4


def test_a_failure_stops_only_dependent_tables(make_lake: Lakes) -> None:
    switch = {"fails": True}

    def fragile(items: DataFrame) -> DataFrame:
        if switch["fails"]:
            raise ZeroDivisionError("the code is wrong")
        return items.select(*ITEM_TYPES)

    broken = table("mart.broken", columns=ITEM_TYPES, write=Append(), items="clean.items")(fragile)

    lake = make_lake(landed_items, landed.orders, items_table(), copies, broken, second, third)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    events: list[str] = []
    listener = RunListener(
        lambda name: events.append(f"start {name}"), lambda result: events.append(f"{result.status} {result.table}")
    )
    report = run_tables(lake.engine, lake.lake, lake.lake.graph.select(), RunRequest(), Run("r", ""), 2, listener)
    statuses = {result.table: result.status for result in report.results}
    assert report.has_failed
    assert statuses == {
        "raw.items": "written",
        "raw.orders": "unchanged",
        "clean.items": "written",
        "mart.copies": "written",
        "mart.broken": "failed",
        "mart.behind": "skipped",
        "mart.further": "skipped",
    }
    errors = {result.table: result.error for result in report.results if result.error}
    assert errors == {
        "mart.broken": f"the code is wrong (runs/test_scheduler.py, line {fragile.__code__.co_firstlineno + 2})",
        "mart.behind": "mart.broken failed",
        "mart.further": "mart.behind failed",
    }
    assert "failed mart.broken" in events
    assert "start mart.behind" not in events

    switch["fails"] = False
    resumed = lake.run(parallel=1)
    assert {name for name, status in resumed.statuses.items() if status == "written"} == {
        "mart.broken",
        "mart.behind",
        "mart.further",
    }
    assert lake.rows("mart.further") == [(1, 1, 1)]


@pytest.mark.parametrize("error", [SessionError("no Java"), KeyboardInterrupt()])
def test_a_session_that_cannot_start_ends_the_run(make_lake: Lakes, error: BaseException) -> None:
    def start() -> AbstractContextManager[SparkSession]:
        raise error

    lake = make_lake(landed_items, items_table())
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    results: list[TableResult] = []
    with pytest.raises(type(error)):
        run_tables(
            SparkEngine(start),
            lake.lake,
            lake.lake.graph.select(),
            RunRequest(),
            Run("r", ""),
            2,
            RunListener(on_table_end=results.append),
        )
    assert [result.table for result in results] == ["raw.items"], "it needs no session"
    assert lake.run().statuses == {"raw.items": "unchanged", "clean.items": "written"}


def test_waiting_tables_end_with_the_run(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, landed.orders)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    started: list[str] = []

    def on_start(name: str) -> None:
        started.append(name)
        if len(started) == 2:
            raise BrokenPipeError("the progress has no reader")

    session = SparkEngine(lambda: pytest.fail("Spark was started"))
    with pytest.raises(BrokenPipeError):
        run_tables(
            session, lake.lake, ["raw.items", "raw.orders"], RunRequest(), Run("r", ""), 2, RunListener(on_start)
        )
    assert started == ["raw.items", "raw.orders"]


def test_only_the_selected_tables_are_written(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, landed.orders, items_table(), copies)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    assert set(lake.run("raw").statuses) == {"raw.items", "raw.orders"}
    assert lake.version("clean.items") is None
    assert lake.run("clean.items+").statuses == {"clean.items": "written", "mart.copies": "written"}
    lake.land("raw.items", "2.csv", items_csv("2,1,1"))
    assert lake.run("clean+").statuses == {"clean.items": "unchanged", "mart.copies": "unchanged"}
    assert set(lake.run("+mart.copies").statuses.values()) == {"written"}


def test_tables_with_most_dependents_start_first(make_lake: Lakes) -> None:
    lake = make_lake(source("raw.alone", landing="alone", columns=("id",)), landed_items, items_table(), copies)
    names, started = lake.lake.graph.select(), list[str]()
    listener = RunListener(on_table_start=started.append)
    run_tables(lake.engine, lake.lake, names, RunRequest(), Run("run", ""), parallel=1, listener=listener)
    assert started == ["raw.items", "clean.items", "raw.alone", "mart.copies"]


def test_a_killed_run_is_resumed(make_lake: Lakes, runs: Runs) -> None:
    lake, undisturbed = (make_lake(modules=("tests.orders",), name=name) for name in ("killed", "undisturbed"))
    for target in (lake, undisturbed):
        land(target, FIRST)
    killed = runs(Order(str(lake.root), ("tests.orders",), strike="kill", when="after", skip=4))
    assert killed.code == -signal.SIGKILL
    resumed = runs.complete(Order(str(lake.root), ("tests.orders",)))
    commits = runs.complete(Order(str(undisturbed.root), ("tests.orders",)))
    assert len(resumed) < len(commits)
    assert_same(lake, content(undisturbed))
    assert runs.complete(Order(str(lake.root), ("tests.orders",))) == []


def test_foreign_rows_are_refused(make_lake: Lakes) -> None:
    lake, request = make_lake(landed_items, items_table(), copies), RunRequest(refuses_foreign_commits=True)
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    lake.run(request=request)
    path = str(lake.lake.get_path("clean.items"))
    write_deltalake(path, pa.table({"id": [99], "at": [1], "value": [5], "_file_id": [1], "_row": [9]}), mode="append")
    assert set(lake.run(request=request).statuses.values()) == {"unchanged"}
    lake.land("raw.items", "2.csv", items_csv("2,1,5"))
    results = lake.attempt(request=request)
    assert results.statuses == {"raw.items": "written", "clean.items": "failed", "mart.copies": "skipped"}
    assert results.errors["clean.items"] == (
        "clean.items: clean.items has version 1 (WRITE) of another writer. Rebuild clean.items with `lakehouse run "
        "--full-refresh --select clean.items+`, or accept the rows: LAKEHOUSE_FOREIGN_COMMITS=warn."
    )
    lake.run("clean.items", "mart.copies", request=replace(request, full_refresh=frozenset(["clean.items"])))
    assert lake.rows("mart.copies") == [(1, 1, 5), (2, 1, 5)]
    lake.land("raw.items", "3.csv", items_csv("3,1,5"))
    lake.run(request=request)
    assert lake.rows("mart.copies") == [(1, 1, 5), (2, 1, 5), (3, 1, 5)]
