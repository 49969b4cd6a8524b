"""Commands on tables: plan, run, status, tables, history, sql, lineage, reconcile."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from lakehouse.runs import context
from lakehouse.storage.lock import lock_lake
from tests.lakehouse.cli.conftest import Command
from tests.lakes import orders_csv, payments_file

READERS_OF_ORDERS = {"mart.receipts", "mart.monthly_orders", "mart.top_customers"}
FUTURE_ORDER = orders_csv("9,10,2100-01-01,2024-01-01 08:00:00,NEW,5")


@pytest.fixture
def landed(lakehouse: Command) -> Command:
    """The command line with two good files, and two that are rejected, in the landing zone."""
    lake = lakehouse.lake
    orders = ("1,10,2024-01-01,2024-01-01 08:00:00,NEW,20000", "2,10,2024-02-01,2024-01-01 08:00:00,NEW,-1")
    lake.land("raw.orders", "orders 1.csv", orders_csv(*orders))
    lake.land("raw.payments", "p", payments_file((1, 1, "2024-01-01", 5.0)))
    lake.land("raw.payments", "broken", b"PAR1")
    lake.land("raw.orders", "[bold].csv", "[/x],not a header\n")
    return lakehouse


def test_an_empty_lake_has_nothing_to_do(lakehouse: Command) -> None:
    assert {entry["action"] for entry in lakehouse.json("plan")} == {"none", "blocked"}
    assert {entry["state"] for entry in lakehouse.json("status")} == {"empty"}
    assert all(entry["rows"] is None for entry in lakehouse.json("tables"))


def test_plan_lists_files_inputs_and_readers(landed: Command) -> None:
    entries = landed.entries("plan", "--select", "raw.orders+")
    assert set(entries) == {"raw.orders", "clean.order_log", "clean.orders", *READERS_OF_ORDERS}
    assert entries["raw.orders"]["files"] == ["orders/[bold].csv", "orders/orders 1.csv"]
    assert entries["clean.orders"]["after"] == ["raw.orders"]
    assert set(entries["clean.orders"]["downstream"]) == READERS_OF_ORDERS
    assert "tables would be written" in landed("plan")


@pytest.mark.usefixtures("session_starts")
def test_run_reports_what_status_then_shows(landed: Command) -> None:
    output = landed("run")
    for text in (
        "quarantined clean.orders: 1 rows",
        "warning clean.orders: 1 rows violate amount_is_usual",
        "rejected payments/broken",
        "rejected orders/[bold].csv: has no header: its first line is '[/x],not a header'",
    ):
        assert text in output
    assert not (landed.lake.root / ".run.json").exists()
    status = landed.entries("status")
    assert status["clean.orders"]["rows"] == {"written": 1, "unchanged": 0, "superseded": 0, "quarantined": 1}
    assert status["clean.orders"]["state"] == "current"
    assert status["raw.orders"]["rows"] == {"written": 2}
    assert [file["path"] for file in status["raw.payments"]["rejected_files"]] == ["payments/broken"]
    assert status["mart.top_customers"]["state"] == "empty"
    assert "clean.customers has no data yet" in status["mart.top_customers"]["pending"]


def test_commands_show_written_tables(landed: Command) -> None:
    landed.lake.run("raw.orders", "clean.orders")
    tables = landed.entries("tables")
    assert tables["clean.orders"]["rows"] == 1
    assert tables["clean.orders"]["write"] == "merge"
    assert tables["quarantine.clean.orders"]["rows"] == 1
    [entry] = landed.json("history", "clean.orders")
    assert entry["record"]["inputs"] == {"raw.orders": {"version": 0, "generation": 1}}
    assert landed.json("sql", "SELECT order_id, amount FROM clean.orders") == [{"order_id": 1, "amount": 20000.0}]
    rules = landed.json("sql", 'SELECT rules FROM quarantine."clean.orders"')
    assert rules == [{"rules": ["amount_is_not_negative"]}]
    assert "landing/orders" in landed("lineage", "clean.orders")
    select = ["sql", "SELECT * FROM clean.orders"]
    for command in (["status"], ["tables"], ["history", "clean.orders"], select, ["plan"]):
        assert landed(*command)


@pytest.mark.usefixtures("session_starts")
def test_a_strict_run_reports_rejected_data(landed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    selection = ("run", "--select", "raw", "--select", "clean.orders")
    findings = (
        "attention raw.orders: 1 file is rejected\n",
        "attention raw.payments: 1 file is rejected\n",
        "attention clean.orders: the last commit quarantined 1 row\n",
    )
    for _ in range(2):  # the second run has nothing to do
        output = landed(*selection, "--strict", exit_code=3)
        assert all(finding in output for finding in findings)
    assert "attention" not in landed(*selection)
    assert landed("run", "--select", "mart", "--strict")
    status = landed("status")
    assert max(map(status.index, findings)) < status.index("current")
    monkeypatch.setenv("LAKEHOUSE_STRICT", "true")
    assert all(finding in landed(*selection, exit_code=3) for finding in findings)
    for name in ("orders/[bold].csv", "payments/broken"):
        (landed.lake.root / "landing" / name).unlink()
    landed.lake.land("raw.orders", "2.csv", orders_csv("3,10,2024-01-01,2024-01-01 08:00:00,NEW,5"))
    assert "attention" not in landed(*selection)
    landed.lake.land("raw.orders", "3.csv", FUTURE_ORDER)
    landed.lake.land("raw.orders", "4.csv", "not a header\n")
    assert "attention" not in landed(*selection, "--strict", exit_code=1), "a failure comes first"


def test_reconcile_finds_another_writer(landed: Command) -> None:
    landed.lake.run("raw.orders", "clean.orders")
    assert not [entry for entry in landed.json("reconcile") if entry["differences"]]
    assert "adds up" in landed("reconcile")
    DeltaTable(str(landed.lake.lake.get_path("clean.orders"))).delete()
    output = landed("reconcile", exit_code=1)
    assert "difference clean.orders was changed by another writer: version 1, DELETE" in output


@pytest.mark.usefixtures("session_starts")
def test_a_failed_table_exits_with_1(landed: Command) -> None:
    landed.lake.run("raw.orders", "clean.orders")
    landed.lake.land("raw.orders", "2.csv", FUTURE_ORDER)
    output = landed("run", "--select", "raw.orders", "--select", "clean.orders", exit_code=1)
    assert "1 rows; the first is row 1 of orders/2.csv. Correct the rows" in " ".join(output.split())
    assert "`lakehouse run` resumes" in output
    assert landed.entries("status")["clean.orders"]["state"] == "behind"


def test_plan_exits_with_1_on_breaking_change(lakehouse: Command) -> None:
    path = lakehouse.lake.lake.get_path("clean.payments")
    path.parent.mkdir(parents=True)
    write_deltalake(path, pa.table({"payment_id": ["text"], "old": [1]}))
    assert "Breaking schema change in clean.payments" in lakehouse("plan", exit_code=1)
    [entry] = [entry for entry in lakehouse.json("plan", exit_code=1) if entry["breaking"]]
    assert {"removes old", "changes payment_id from string to bigint"} <= set(entry["schema_changes"])


def test_a_second_run_names_the_holder(lakehouse: Command) -> None:
    with lock_lake(lakehouse.lake.root, "the-first-run"):
        assert f"run the-first-run, process {os.getpid()}" in lakehouse("run", exit_code=2)


def test_a_run_starts_one_session_for_work(
    lakehouse: Command, session_starts: list[SparkSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse("run")
    lakehouse.lake.land("raw.payments", "broken", b"PAR1")
    assert "rejected payments/broken" in lakehouse("run")
    lakehouse("quarantine", "replay", "clean.orders")
    assert session_starts == []

    lakehouse.lake.land("raw.orders", "1.csv", orders_csv("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5"))
    lakehouse.lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 5.0)))
    selection = ("--select", "raw", "--select", "clean.payments")
    assert "3 written" in lakehouse("run", *selection)
    assert len(session_starts) == 1
    assert "unchanged" in lakehouse("run", *selection)
    write_deltalake(lakehouse.lake.lake.get_path("clean.order_log"), pa.table({"old": [1]}))
    assert "columns break" in lakehouse("run", "--select", "clean.order_log", exit_code=1)
    assert len(session_starts) == 1

    monkeypatch.setenv(context.YARN_DRIVER, "hdfs://staging")
    lakehouse("run", *selection)
    assert len(session_starts) == 2, "YARN fails a driver without a session"


@pytest.mark.usefixtures("session_starts")
def test_commands_name_another_writer(landed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    landed("run", "--select", "raw.orders", "--select", "clean.orders")
    DeltaTable(str(landed.lake.lake.get_path("clean.orders"))).delete()
    expected = "foreign clean.orders has version 1 (DELETE) of another writer"
    for command in ("plan", "status"):
        assert expected in landed(command)
        assert landed.entries(command)["clean.orders"]["foreign_commits"] == [
            {"table": "clean.orders", "version": 1, "operation": "DELETE"}
        ]
    landed.lake.land("raw.orders", "2.csv", orders_csv("3,10,2024-01-01,2024-01-01 08:00:00,NEW,5"))
    monkeypatch.setenv("LAKEHOUSE_FOREIGN_COMMITS", "refuse")
    selection = ("--select", "raw.orders", "--select", "clean.orders")
    assert "clean.orders has version 1 (DELETE) of another writer. Rebuild" in landed("run", *selection, exit_code=1)
    monkeypatch.setenv("LAKEHOUSE_FOREIGN_COMMITS", "warn")
    assert expected in landed("run", *selection)
    assert landed.entries("status")["clean.orders"]["foreign_commits"] == []


def test_deep_reconciliation_names_the_damaged_file(landed: Command) -> None:
    landed.lake.run("raw.orders", "clean.orders")
    assert "quarantine.clean.orders" in landed("reconcile", "--deep")
    [file] = landed.lake.lake.get_quarantine_path("clean.orders").glob("*.parquet")
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    expected = f"quarantine.clean.orders has other content in {file.name} than its commit wrote"
    assert f"difference {expected}" in landed("reconcile", "--deep", exit_code=1)
    document = landed.json("reconcile", "--deep", exit_code=1)
    assert [entry["table"] for entry in document["files"] if entry["differences"]] == ["quarantine.clean.orders"]
