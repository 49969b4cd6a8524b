"""The command line as a whole: mistakes, settings, interrupts, machines without Java."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lakehouse.catalog import Catalog
from lakehouse.cli import tables as cli_tables
from lakehouse.cli.main import COMMANDS
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import table_log
from lakehouse.plan import planner
from lakehouse.plan.steps import Step
from lakehouse.runs import scheduler
from lakehouse.writes.outcome import Outcome
from lakehouse.writes.table_writer import TableWriter
from tests.lakehouse.cli.conftest import Command
from tests.lakes import orders_csv, payments_file
from tests.paths import PROJECT

ORDER = orders_csv("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5")


def test_help_lists_every_command_in_order(lakehouse: Command) -> None:
    lines = lakehouse("--help").split("Commands:")[1].splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert listed == [*(name for name, _ in COMMANDS), "quarantine"]
    quarantine = lakehouse("quarantine", "--help")
    assert all(f"\n  {name} " in quarantine for name in ("list", "show", "replay"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--select", "clean.order"], "'clean.order' names no table; did you mean clean.order"),
        (["run", "--select", "nothing"], "'nothing' names no table"),
        (["history", "clean.nothing"], "'clean.nothing' has no history"),
        (["history", "clean.orders"], "'clean.orders' has no history"),
        (["land", "raw.nothing", "x.csv"], "'raw.nothing' is not a source. Choose one of raw."),
        (["land", "clean.orders", "x.csv"], "'clean.orders' is not a source"),
        (["land", "raw.orders"], "raw.orders: no file was named. Run `lakehouse land raw.orders FILE...`."),
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
def test_a_mistake_prints_a_message(lakehouse: Command, arguments: list[str], message: str) -> None:
    assert message in " ".join(lakehouse(*arguments, exit_code=2).split())
    assert not (lakehouse.lake.root / "lake").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LAKEHOUSE_ROOOT", "x", "Unknown setting LAKEHOUSE_ROOOT"),
        ("LAKEHOUSE_PARALLEL_TABLES", "0", "parallel_tables='0'"),
        ("LAKEHOUSE_PROFILE", "none", "'none' is not a profile"),
        ("LAKEHOUSE_DECLARATIONS", '["no_such_module"]', "'no_such_module' cannot be loaded"),
    ],
)
def test_a_wrong_setting_prints_a_message(
    lakehouse: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    for command in ("plan", "run", "status"):
        assert message in lakehouse(command, exit_code=2)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OverflowError("date value out of range"), "OverflowError: date value out of range"),
        (OSError(errno.ENOSPC, "", "/lake/x"), "OSError: no space is left on the disk (/lake/x). Free space"),
        (MemoryError(), "MemoryError: out of memory."),
        (RecursionError("[/x] \x1b[2J"), r"RecursionError: [/x] \x1b[2J"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "status", "run"])
def test_an_unexpected_error_names_cause_and_table(
    lakehouse: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, error: Exception, message: str
) -> None:
    """No stack trace is printed. Where no table's own failure is reported, it is in a file."""
    decide = planner._decide_table

    def fail(catalog: Catalog, table: Table, *arguments: Any) -> Step:
        if table.name == "clean.orders":
            raise error
        return decide(catalog, table, *arguments)

    monkeypatch.setattr(planner, "_decide_table", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output = " ".join(lakehouse(command, exit_code=1 if command == "run" else 2).split())
    if command == "run":
        assert f"failed clean.orders: {message.partition(': ')[2]}" in output
        return
    assert message in output
    assert "The table is clean.orders." in output
    [trace] = tmp_path.glob("lakehouse-*.log")
    assert f"The stack trace is in {trace}." in output
    assert "_decide_step" in trace.read_text()


class PanicException(BaseException):
    """The error of a panic in a Rust library, such as delta-rs. Its class cannot be imported."""


def test_a_panic_of_a_library_prints_a_message(
    lakehouse: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def panic(*_: object) -> None:
        raise PanicException("index out of bounds: the len is 1 but the index is 1")

    monkeypatch.setattr(cli_tables, "print_status", panic)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output = " ".join(lakehouse("status", exit_code=2).split())
    assert "PanicException: index out of bounds: the len is 1 but the index is 1" in output
    [trace] = tmp_path.glob("lakehouse-*.log")
    assert f"The stack trace is in {trace}." in output


def test_commands_that_read_need_no_java(lakehouse: Command, tmp_path: Path) -> None:
    lakehouse.lake.land("raw.orders", "1.csv", ORDER)
    lakehouse.lake.run("raw.orders", "clean.orders")
    environment = {
        "PATH": str(tmp_path),
        "LAKEHOUSE_ROOT": str(lakehouse.lake.root),
        "LAKEHOUSE_DECLARATIONS": '["tests.orders"]',
    }
    for arguments in (["status", "--json"], ["sql", "SELECT count(*) AS n FROM clean.orders", "--json"]):
        command = [sys.executable, "-m", "lakehouse.cli.main", *arguments]
        process = subprocess.run(
            command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert (process.returncode, process.stderr) == (0, ""), process.stderr
    assert json.loads(process.stdout) == [{"n": 1}]


def test_a_run_with_work_fails_once_without_java(
    lakehouse: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "failed" not in lakehouse("run")
    lakehouse.lake.land("raw.orders", "1.csv", ORDER)
    lakehouse.lake.land("raw.payments", "a", payments_file((1, 1, "2024-01-01", 5.0)))
    output = lakehouse("run", exit_code=2)
    assert output.count("SessionError: No Java was found.") == 1
    assert "failed" not in output


@pytest.mark.usefixtures("session_starts")
def test_an_interrupted_run_ends_and_the_next_continues(
    lakehouse: Command, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.lake.land("raw.orders", "1.csv", ORDER)
    carry_out = scheduler.execute_step

    def interrupt(work: TableWriter) -> Outcome:
        if work.step.table != "clean.orders":
            return carry_out(work)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # between two of its jobs
        spark.range(10**8).agg(F.sum(F.sqrt("id"))).collect()  # seconds, if nothing ends it
        return carry_out(work)

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "execute_step", interrupt)
        output = lakehouse("run", "--select", "clean.orders", "--select", "raw.orders", exit_code=130)
    assert "Interrupted. Committed tables are kept." in output
    assert table_log.open_log(lakehouse.lake.lake.get_path("clean.orders")) is None
    assert "written" in lakehouse("run", "--select", "clean.orders")
