"""The command line: what it prints, how it exits, and that only `run` starts a JVM."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakehouse.cli import main as cli
from lakehouse.deltalog import table_log
from lakehouse.engine.spark import engine
from lakehouse.runs import context, scheduler
from lakehouse.storage.lock import run_lock
from lakehouse.writes.table_writer import Outcome, Work
from tests.lakes import TestLake, orders_csv, payments_file
from tests.paths import PROJECT


class Command:
    """The command line in this process, on a lake of the orders example."""

    def __init__(self, lake: TestLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.lake, self.capsys, self.monkeypatch = lake, capsys, monkeypatch
        for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("LAKEHOUSE_ROOT", str(lake.root))
        monkeypatch.setenv("LAKEHOUSE_DECLARATIONS", '["tests.orders"]')

    def __call__(self, *arguments: str, exit_code: int = 0) -> str:
        self.monkeypatch.setattr(sys, "argv", ["lakehouse", *arguments])
        before = javas()
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = self.capsys.readouterr()
        both = said.out + said.err
        assert (left.value.code or 0) == exit_code, both
        assert "Traceback" not in both
        assert "Warning:" not in both
        assert javas() == before, "no JVM was started"
        return said.out if exit_code == 0 else both

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", exit_code=exit_code))


def javas() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if "java" in child.name()}


@pytest.fixture
def lakehouse(
    shop: Callable[..., TestLake], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    return Command(shop(), monkeypatch, capsys)


@pytest.fixture
def on_shared_session(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> list[SparkSession]:
    """`run` takes the tests' session instead of starting its own; the list has one entry for each start."""
    starts: list[SparkSession] = []

    @contextmanager
    def shared(*_: object) -> Iterator[SparkSession]:
        starts.append(spark)
        yield spark

    monkeypatch.setattr(engine, "spark_session", shared)
    return starts


@pytest.mark.usefixtures("on_shared_session")
def test_from_landing_to_sql(lakehouse: Command, tmp_path: Path) -> None:
    lake = lakehouse.lake
    assert {one["action"] for one in lakehouse.json("plan")} == {"none", "blocked"}
    assert {one["state"] for one in lakehouse.json("status")} == {"empty"}
    assert all(one["rows"] is None for one in lakehouse.json("tables"))
    file = tmp_path / "orders 1.csv"
    file.write_text(
        orders_csv("1,10,2024-01-01,2024-01-01 08:00:00,NEW,20000", "2,10,2024-02-01,2024-01-01 08:00:00,NEW,-1")
    )
    assert lakehouse("land", "raw.orders", str(file)).strip() == "landing/orders/orders 1.csv"
    lake.land("raw.payments", "p", payments_file((1, 1, "2024-01-01", 5.0)))
    lake.land("raw.payments", "broken", b"PAR1")
    lake.land("raw.orders", "[bold].csv", "[/x],not a header\n")

    planned = {one["table"]: one for one in lakehouse.json("plan", "--select", "raw.orders+")}
    assert set(planned) == {
        "raw.orders", "clean.order_log", "clean.orders", "mart.receipts", "mart.monthly_orders", "mart.top_customers",
    }  # fmt: skip
    assert planned["raw.orders"]["files"] == ["orders/[bold].csv", "orders/orders 1.csv"]
    assert planned["clean.orders"]["after"] == ["raw.orders"]
    assert set(planned["clean.orders"]["downstream"]) == {"mart.receipts", "mart.monthly_orders", "mart.top_customers"}
    assert "tables would be written" in lakehouse("plan")

    said = lakehouse("run")
    for words in (
        "quarantined clean.orders: 1 rows",
        "warning clean.orders: 1 rows break amount_is_usual",
        "rejected payments/broken",
        "rejected orders/[bold].csv: has no header: its first line is '[/x],not a header'",
    ):
        assert words in said
    assert not (lake.root / ".run.json").exists()

    status = {one["table"]: one for one in lakehouse.json("status")}
    assert status["clean.orders"]["rows"] == {"written": 1, "unchanged": 0, "superseded": 0, "quarantined": 1}
    assert status["clean.orders"]["state"] == "current"
    assert status["raw.orders"]["rows"] == {"written": 2}
    assert [one["path"] for one in status["raw.payments"]["rejected_files"]] == ["payments/broken"]
    assert status["mart.top_customers"]["state"] == "empty"
    assert "clean.customers has no data yet" in status["mart.top_customers"]["pending"]
    tables = {one["table"]: one for one in lakehouse.json("tables")}
    assert tables["clean.orders"]["rows"] == 1
    assert tables["clean.orders"]["write"] == "merge"
    assert tables["quarantine.clean.orders"]["rows"] == 1
    [entry] = lakehouse.json("history", "clean.orders")
    assert entry["record"]["inputs"] == {"raw.orders": {"version": 0, "generation": 1}}
    assert lakehouse.json("sql", "SELECT order_id, amount FROM clean.orders") == [{"order_id": 1, "amount": 20000.0}]
    assert lakehouse.json("sql", 'SELECT rules FROM quarantine."clean.orders"') == [
        {"rules": ["amount_is_not_negative"]}
    ]
    [summary] = lakehouse.json("quarantine", "list")
    assert (summary["table"], summary["waiting"], summary["rules"]) == (
        "clean.orders",
        1,
        {"amount_is_not_negative": 1},
    )
    assert "1 amount_is_not_negative" in lakehouse("quarantine", "list")
    [reject] = lakehouse.json("quarantine", "show", "clean.orders")
    assert (reject["_row"], reject["original"]["amount"]) == (2, "-1")
    assert "amount='-1'" in lakehouse("quarantine", "show", "clean.orders")
    for option in (["--dry-run"], []):
        said = lakehouse("quarantine", "replay", "clean.orders", *option)
        assert "1 still wait: they break amount_is_not_negative" in said
    assert "Nothing waits in the quarantine of clean.payments." in lakehouse("quarantine", "replay", "clean.payments")
    assert "'clean.x' is no table with a quarantine" in lakehouse("quarantine", "show", "clean.x", exit_code=2)
    assert "landing/orders" in lakehouse("lineage", "clean.orders")
    assert not [one for one in lakehouse.json("reconcile") if one["differences"]]
    assert "adds up" in lakehouse("reconcile")
    for command in (
        ["status"],
        ["tables"],
        ["history", "clean.orders"],
        ["sql", "SELECT * FROM clean.orders"],
        ["plan"],
    ):
        assert lakehouse(*command)

    # A failed table: its error, exit code 1, nothing lost.
    lake.land("raw.orders", "2.csv", orders_csv("9,10,2100-01-01,2024-01-01 08:00:00,NEW,5"))
    said = lakehouse("run", "--select", "raw.orders", "--select", "clean.orders", exit_code=1)
    assert "not_from_the_future" in said
    assert "`lakehouse run` resumes" in said
    assert {one["table"] for one in lakehouse.json("status") if one["state"] == "behind"} >= {"clean.orders"}

    # The same commands where there is no Java at all.
    environment = {
        "PATH": str(tmp_path),
        "LAKEHOUSE_ROOT": str(lake.root),
        "LAKEHOUSE_DECLARATIONS": '["tests.orders"]',
    }
    for arguments in (["status", "--json"], ["sql", "SELECT count(*) AS n FROM clean.orders", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "lakehouse.cli.main", *arguments], cwd=PROJECT, env=environment, capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert json.loads(done.stdout) == [{"n": 1}]
    DeltaTable(str(lake.lake.path("clean.orders"))).delete()
    assert "difference clean.orders was changed by another writer: version 1, DELETE" in lakehouse(
        "reconcile", exit_code=1
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "--select", "clean.order"], "'clean.order' names no table; did you mean clean.order"),
        (["run", "--select", "nothing"], "'nothing' names no table"),
        (["history", "clean.nothing"], "'clean.nothing' has no history"),
        (["history", "clean.orders"], "'clean.orders' has no history"),
        (["land", "raw.nothing", "x.csv"], "'raw.nothing' is not a source; known are raw."),
        (["land", "clean.orders", "x.csv"], "'clean.orders' is not a source"),
        (["land", "raw.orders", "/no/such.csv"], "/no/such.csv is not a file"),
        (["sql", "SELECT * FROM clean.orders"], "none yet"),
        (["sql", "SELEC"], "SELEC"),
        (["sql", ""], ""),
        (["plan", "--from", "2024-01-01"], "A range needs both --from and --to"),
        (["plan", "--from", "2024-01-02", "--to", "2024-01-01"], "--from 2024-01-02 is after --to 2024-01-01"),
        (["run", "--select", "raw", "--from", "2024-01-01", "--to", "2024-01-02"], "none of the selected tables is"),
        (["plan", "--from", "soon", "--to", "2024-01-02"], "soon"),
        (["no-such-command"], "No such command"),
    ],
)
def test_a_mistake_is_told_in_words(lakehouse: Command, arguments: list[str], said: str) -> None:
    assert said in " ".join(lakehouse(*arguments, exit_code=2).split())
    assert not (lakehouse.lake.root / "lake").exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LAKEHOUSE_ROOOT", "x", "Unknown setting LAKEHOUSE_ROOOT"),
        ("LAKEHOUSE_PARALLEL_TABLES", "0", "parallel_tables='0'"),
        ("LAKEHOUSE_PROFILE", "none", "'none' is not a profile"),
        ("LAKEHOUSE_DECLARATIONS", '["no_such_module"]', "'no_such_module' cannot be loaded"),
    ],
)
def test_a_wrong_setting_is_told_in_words(
    lakehouse: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    for command in ("plan", "run", "status"):
        assert said in lakehouse(command, exit_code=2)


def test_a_folder_that_no_source_reads_is_pointed_out(lakehouse: Command) -> None:
    for name in ("ordres", "orders", ".hidden"):
        (lakehouse.lake.root / "landing" / name).mkdir(parents=True)
    for command in ("plan", "status"):
        said = lakehouse(command)
        assert "unread landing/ordres: no source reads this" in said
        assert "landing/orders" not in said
        assert "hidden" not in said


def test_a_breaking_change_of_columns_is_planned_with_exit_code_1(lakehouse: Command) -> None:
    path = lakehouse.lake.lake.path("clean.payments")
    path.parent.mkdir(parents=True)
    write_deltalake(path, pa.table({"payment_id": ["text"], "old": [1]}))
    assert "Breaking schema change in clean.payments" in lakehouse("plan", exit_code=1)
    [entry] = [one for one in lakehouse.json("plan", exit_code=1) if one["breaking"]]
    assert {"removes old", "changes payment_id from string to bigint"} <= set(entry["schema_changes"])


def test_a_second_run_leaves_with_the_holders_name(lakehouse: Command) -> None:
    with run_lock(lakehouse.lake.root, "the-first-run"):
        assert f"run the-first-run, process {os.getpid()}" in lakehouse("run", exit_code=2)


def test_a_run_starts_one_session_and_only_for_work(
    lakehouse: Command, on_shared_session: list[SparkSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse("run")
    lakehouse.lake.land("raw.payments", "broken", b"PAR1")
    assert "rejected payments/broken" in lakehouse("run")
    lakehouse("quarantine", "replay", "clean.orders")
    assert on_shared_session == []

    lakehouse.lake.land("raw.orders", "1.csv", orders_csv("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5"))
    lakehouse.lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 5.0)))
    selected = ("--select", "raw", "--select", "clean.payments")
    assert "3 written" in lakehouse("run", *selected)
    assert len(on_shared_session) == 1
    assert "unchanged" in lakehouse("run", *selected)
    write_deltalake(lakehouse.lake.lake.path("clean.order_log"), pa.table({"old": [1]}))
    assert "columns break" in lakehouse("run", "--select", "clean.order_log", exit_code=1)
    assert len(on_shared_session) == 1

    monkeypatch.setenv(context.YARN_DRIVER, "hdfs://staging")
    lakehouse("run", *selected)
    assert len(on_shared_session) == 2, "YARN fails a driver without a session"


def test_without_java_a_run_with_work_fails_once(
    lakehouse: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "failed" not in lakehouse("run")
    lakehouse.lake.land("raw.orders", "1.csv", orders_csv("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5"))
    lakehouse.lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 5.0)))
    said = lakehouse("run", exit_code=2)
    assert said.count("SessionError: No Java was found.") == 1
    assert "failed" not in said


@pytest.mark.usefixtures("on_shared_session")
def test_an_interrupted_run_ends_at_once_and_the_next_goes_on(
    lakehouse: Command, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.lake.land("raw.orders", "1.csv", orders_csv("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5"))
    carry_out = scheduler.carry_out

    def interrupted(work: Work) -> Outcome:
        if work.step.table != "clean.orders":
            return carry_out(work)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # between two of its jobs
        work.spark.range(10**8).agg(F.sum(F.sqrt("id"))).collect()  # seconds, if nothing ends it
        return carry_out(work)

    with monkeypatch.context() as changed:
        changed.setattr(scheduler, "carry_out", interrupted)
        said = lakehouse("run", "--select", "clean.orders", "--select", "raw.orders", exit_code=130)
    assert "Interrupted. What was committed stays" in said
    assert table_log.open_log(lakehouse.lake.lake.path("clean.orders")) is None
    assert "written" in lakehouse("run", "--select", "clean.orders")


@pytest.mark.usefixtures("on_shared_session")
def test_undo_says_what_it_does_asks_and_does_it(lakehouse: Command) -> None:
    lake = lakehouse.lake
    lake.land("raw.orders", "1.csv", orders_csv("1,7,2024-01-01,2024-01-01T08:00:00Z,NEW,10"))
    lake.run("raw.orders", "clean.orders", run="A")
    lake.land("raw.orders", "2.csv", orders_csv("2,7,2024-01-01,2024-01-01T08:00:00Z,NEW,20"))
    lake.run("raw.orders", "clean.orders", run="B")
    versions = lake.versions()
    said = lakehouse("undo", "B", "--dry-run")
    for line in (
        r"clean.orders +1 +0 +2 +1\n",
        r"raw.orders +1 +0 +2 +1\n",
        r"ingests again .*\n  landing/orders/2.csv\n",
    ):
        assert re.search(line, said), said
    assert "Nobody can be asked here, so nothing was touched: say --yes" in lakehouse("undo", "B", exit_code=2)
    assert "the newest are B, A" in lakehouse("undo", "C", exit_code=2)
    assert "raw.orders was written by B since" in lakehouse("undo", "A", exit_code=2)
    lakehouse.monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    lakehouse.monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert "Take it back?" in lakehouse("undo", "B", exit_code=1)
    assert lake.versions() == versions
    assert "Run B is taken back, by run " in lakehouse("undo", "B", "--yes")
    assert lake.rows("clean.orders", "order_id") == [(1,)]
    assert "is taken back already" in lakehouse("undo", "B", "--yes")
    assert re.search(r"RESTORE \(undoes B\) +\S+ +3 +1 restored", lakehouse("history", "clean.orders"))
    assert lakehouse.json("history", "clean.orders")[0]["record"]["undoes"] == "B"
    assert "1 new file" in lakehouse("plan", "--select", "raw.orders")
