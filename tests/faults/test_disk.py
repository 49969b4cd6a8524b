"""A full disk: each command says so, and the next run continues once there is space."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from lakehouse.errors import LandingError
from lakehouse.landing.delivery import deliver
from tests.faults.disk import fill_disk, mount_disk
from tests.lakes import TestLake, items_csv, items_table, landed_items
from tests.paths import PROJECT

RANDOM = random.Random(0)
LINES = [f"{number},1,{RANDOM.randrange(10**6)}" for number in range(20_000)]
FULL = "no space is left on the disk"


def test_land_says_that_the_disk_is_full(tmp_path: Path) -> None:
    files = [tmp_path / "small.csv", tmp_path / "large.csv", tmp_path / "last.csv"]
    for file, lines in zip(files, (LINES[:10], LINES, LINES[:10]), strict=True):
        file.write_text(items_csv(*lines))
    with mount_disk(tmp_path / "disk", "4m") as disk:
        landing = disk / "landing"
        landing.mkdir()
        ballast = fill_disk(disk, 70_000)
        with pytest.raises(LandingError) as raised:
            deliver(landing, landed_items, files)
        expected = f"raw.items: large.csv was not delivered, and 1 files before it were: {FULL}"
        assert str(raised.value).startswith(expected)
        assert [file.name for file in (landing / "items").iterdir()] == ["small.csv"], "no part of a file stays"
        ballast.unlink()
        deliver(landing, landed_items, files)
        assert [(landing / "items" / file.name).read_text() for file in files] == [file.read_text() for file in files]


@pytest.mark.parametrize("command", ["land", "run", "plan", "status"])
def test_no_command_ends_in_a_stack_trace(tmp_path: Path, command: str) -> None:
    file = tmp_path / "orders.csv"
    file.write_text("x" * 100_000)
    arguments = [command, "raw.orders", str(file)] if command == "land" else [command]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    with mount_disk(tmp_path / "disk", "1m") as disk:
        fill_disk(disk, 0)
        variables |= {"LAKEHOUSE_ROOT": str(disk / "lake"), "LAKEHOUSE_DECLARATIONS": '["tests.orders"]'}
        line = [sys.executable, "-m", "lakehouse.cli.main", *arguments]
        done = subprocess.run(line, cwd=PROJECT, env=variables, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    if command in ("land", "run"):
        assert (done.returncode, FULL in done.stderr) == (2, True), done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_a_run_on_a_full_disk_continues(spark: SparkSession, tmp_path: Path) -> None:
    with mount_disk(tmp_path / "disk", "8m") as disk:
        lake = TestLake(spark, Catalog(graph.build([landed_items, items_table()]), disk / "lake"))
        lake.land("raw.items", "1.csv", items_csv(*LINES))
        ballast = fill_disk(disk, 70_000)
        error = lake.attempt(run="full").errors["raw.items"]
        assert error.startswith(FULL), error
        ballast.unlink()
        lake.run()
        assert len(lake.rows("raw.items", "id")) == len(lake.rows("clean.items")) == len(LINES)
        assert set(lake.run().statuses.values()) == {"unchanged"}


def test_spark_says_that_the_disk_is_full(spark: SparkSession, tmp_path: Path) -> None:
    with mount_disk(tmp_path / "disk", "8m") as disk:
        lake = TestLake(spark, Catalog(graph.build([landed_items, items_table()]), disk / "lake"))
        lake.land("raw.items", "1.csv", items_csv(*LINES))
        lake.run("raw.items")
        ballast = fill_disk(disk, 70_000)
        error = lake.attempt("clean.items", run="full").errors["clean.items"]
        assert error.startswith(FULL), error
        ballast.unlink()
        lake.run()
        assert len(lake.rows("clean.items")) == len(LINES)
