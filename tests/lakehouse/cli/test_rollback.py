"""The command that rolls back a run."""

from __future__ import annotations

import io
import re

import pytest

from tests.lakehouse.cli.conftest import Command
from tests.lakehouse.cli.test_landing import ODD_NAMES
from tests.lakes import orders_csv


@pytest.fixture
def two_runs(lakehouse: Command, session_starts: list[object]) -> Command:
    """The command line on a lake that runs A and B wrote."""
    for run, order in (
        ("A", "1,7,2024-01-01,2024-01-01T08:00:00Z,NEW,10"),
        ("B", "2,7,2024-01-01,2024-01-01T08:00:00Z,NEW,20"),
    ):
        lakehouse.lake.land("raw.orders", f"{order[0]}.csv", orders_csv(order))
        lakehouse.lake.run("raw.orders", "clean.orders", run=run)
    return lakehouse


def test_undo_refuses_without_changing_anything(two_runs: Command) -> None:
    versions = two_runs.lake.versions()
    assert "Cannot ask for confirmation: stdin is not a terminal." in two_runs("rollback", "B", exit_code=2)
    assert "The newest runs are B, A;" in two_runs("rollback", "C", exit_code=2)
    assert "raw.orders was written by B since" in two_runs("rollback", "A", exit_code=2)
    two_runs.monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    two_runs.monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert "Roll back?" in two_runs("rollback", "B", exit_code=1)
    assert two_runs.lake.versions() == versions


def test_undo_restores_what_its_dry_run_shows(two_runs: Command) -> None:
    output = two_runs("rollback", "B", "--dry-run")
    for line in (
        r"clean.orders +1 +0 +2 +1\n",
        r"raw.orders +1 +0 +2 +1\n",
        r"ingests these files again.*\n  landing/orders/2.csv\n",
    ):
        assert re.search(line, output), output
    assert "Run B is rolled back by run " in two_runs("rollback", "B", "--yes")
    assert two_runs.lake.rows("clean.orders", "order_id") == [(1,)]
    assert "is rolled back already" in two_runs("rollback", "B", "--yes")
    assert re.search(r"RESTORE \(rolls back B\) +\S+ +3 +1 restored", two_runs("history", "clean.orders"))
    assert two_runs.json("history", "clean.orders")[0]["record"]["rolled_back_run"] == "B"
    assert "1 new file" in two_runs("plan", "--select", "raw.orders")


def test_a_rollback_prints_names_as_text(lakehouse: Command) -> None:
    files = [
        lakehouse.lake.land("raw.orders", name, orders_csv(f"{number},7,2024-01-01,2024-01-01T08:00:00Z,NEW,10"))
        for number, name in enumerate(ODD_NAMES)
    ]
    lakehouse("run", "--select", "raw.orders")
    run = lakehouse.lake.record("raw.orders").run
    for file in files[::2]:
        file.unlink()
    output = lakehouse("rollback", run, "--dry-run")
    assert output.replace("\n", "").isprintable()
    ingested, missing = output.split("No longer in the landing zone")
    for number, shown in enumerate(ODD_NAMES.values()):
        assert f"  landing/orders/{shown}\n" in (ingested if number % 2 else missing)
