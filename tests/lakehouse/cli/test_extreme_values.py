"""Commands that read, on a lake with values at the edges of their types. No value ends a command in a stack trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from tests.extremes import LAST, make_file, write_tables
from tests.lakehouse.cli.conftest import Command
from tests.lakes import TestLake
from tests.paths import PROJECT

MODULE, RUN = "tests.extremes", "RUN"
RANGE = ("--from", "0001-01-01", "--to", "9999-12-31")
TABLES = ("raw.extremes", "silver.extremes", "gold.days")
COMMANDS: list[tuple[str, ...]] = [
    ("status",),
    ("plan",),
    ("plan", "--full-refresh"),
    ("plan", *RANGE),
    ("plan", "--select", "gold", "--from", "9999-12-31", "--to", "9999-12-31"),
    ("plan", "--select", "gold", "--from", "0001-01-01", "--to", "0001-01-01"),
    ("reconcile",),
    ("reconcile", "--deep"),
    ("repair",),
    ("tables",),
    ("quarantine", "list"),
    ("quarantine", "show", "silver.extremes"),
    ("rollback", RUN, "--dry-run"),
    *((name, table) for table in TABLES for name in ("history", "lineage")),
    *(("vacuum", table, "--dry-run") for table in TABLES),
    *(("sql", f"SELECT * FROM {table}") for table in TABLES),
    ("sql", 'SELECT * FROM quarantine."silver.extremes"'),
    ("sql", "SELECT day + INTERVAL 1 DAY, -whole, amount::VARCHAR, number FROM silver.extremes ORDER BY number"),
]
HAVE_JSON = ("status", "plan", "reconcile", "tables", "quarantine", "history", "sql")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the lake without Spark, and return its root."""
    root = tmp_path_factory.mktemp("extremes")
    file = root / "landing" / "extremes" / "1.parquet"
    file.parent.mkdir(parents=True)
    file.write_bytes(make_file())
    variables = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    variables |= {"LAKEHOUSE_ROOT": str(root), "LAKEHOUSE_DECLARATIONS": json.dumps([MODULE])}
    command = [sys.executable, "-m", "lakehouse.cli.main", "run", "--select", "raw"]
    done = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    write_tables(root)
    return root


@pytest.fixture
def lakehouse(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    lake: Any = TestLake(None, Catalog(graph.load([MODULE]), root))  # type: ignore[arg-type]
    return Command(lake, monkeypatch, capsys, MODULE)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_value_ends_a_command(lakehouse: Command, arguments: tuple[str, ...]) -> None:
    words = [lakehouse.lake.record("raw.extremes").run if word == RUN else word for word in arguments]
    output = lakehouse(*words)
    assert output.replace("\n", "").isprintable()
    if arguments[0] in HAVE_JSON and arguments[1:] != RANGE:  # it would list three million days
        document = lakehouse(*words, "--json")
        assert document.replace("\n", "").isprintable()
        assert json.loads(document, parse_constant=pytest.fail) is not None


def test_values_are_printed_whole_in_json(lakehouse: Command) -> None:
    text = "SELECT day, number, amount, whole FROM silver.extremes ORDER BY id"
    rows = lakehouse.json("sql", text)
    nines = "9" * 20 + "." + "9" * 18
    assert rows[:2] == [
        {"day": "0001-01-01", "number": "NaN", "amount": f"-{nines}", "whole": -(10**38) + 1},
        {"day": str(LAST), "number": "Infinity", "amount": nines, "whole": 10**38 - 1},
    ]
    assert rows[2]["number"] == "-Infinity"
