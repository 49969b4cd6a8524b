"""A run killed at any point, and run again, ends in the tables of a run that nothing disturbed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from lakehouse import graph
from lakehouse.declare import Table
from lakehouse.lock import run_lock
from lakehouse.plan import Lake
from lakehouse.settings import PROJECT
from tests.lakes import TestLake, age, customer, json_lines, orders_csv, payments_file

pytestmark = pytest.mark.slow


def first_delivery(lake: TestLake) -> None:
    land(lake, "raw.orders", "1.csv", orders_csv(
        "1,10,2024-01-01,2024-01-01 08:00:00,NEW,5",
        "2,11,2024-01-31,2024-01-31 08:00:00,NEW,7",
        "3,11,2024-01-31,2024-01-31 08:00:00,NEW,-7",
    ))  # fmt: skip
    land(lake, "raw.customers", "1.json", json_lines(customer(10, "Ada", "Oslo", "2024-01-01")))
    land(lake, "raw.payments", "a", payments_file((1, 1, "2024-01-02", 5.0), (2, 2, "2024-01-31", 2.5)))


def second_delivery(lake: TestLake) -> None:
    land(lake, "raw.orders", "2.csv", orders_csv(
        "1,10,2024-01-01,2024-01-02 08:00:00,PAID,6",
        "2,11,2024-01-31,2024-01-31 08:00:00,NEW,7",
        "4,12,2024-02-01,2024-02-01 08:00:00,NEW,9",
        "5,12,2024-02-01,2024-02-01 08:00:00,NEW,-9",
        "six,12,2024-02-01,2024-02-01 08:00:00,NEW,9",
    ))  # fmt: skip
    land(lake, "raw.customers", "2.json", json_lines(customer(10, "Ada", "Rom", "2024-02-01")))
    land(lake, "raw.payments", "a", payments_file((1, 1, "2024-01-03", 5.0), (3, 4, "2024-02-01", 0.0)))


def land(lake: TestLake, source: str, name: str, content: str | bytes) -> None:
    age(lake.land(source, name, content), 60)


def quarantined(lake: TestLake) -> dict[str, list[Any]]:
    """Every quarantine, without what says when."""
    found = {}
    for name, declared in lake.lake.graph.declared.items():
        if isinstance(declared, Table):
            kept = lake.quarantine(name, "batch", "_file_id", "_row", "_source_file", "generation", "rules", "original")
            found[name] = [
                (*row[:-1], {k: v for k, v in json.loads(row[-1]).items() if k != "_ingested_at"}) for row in kept
            ]
    return found


def landed(lake: TestLake, name: str) -> list[Any]:
    return lake.rows(name, *lake.lake.graph.declared[name].columns, "_file_id", "_row", "_source_file", "_batch_id")


def state(lake: TestLake) -> tuple[Any, ...]:
    bronze = {name: landed(lake, name) for name in lake.lake.graph.declared if name.startswith("raw.")}
    return bronze, lake.content(), quarantined(lake)


def at(spark: SparkSession, root: Path) -> TestLake:
    return TestLake(spark, Lake(graph.load(["tests.orders"]), root))


def killed(root: Path, point: str) -> None:
    driver = [sys.executable, str(Path(__file__).with_name("driver.py")), str(root), point]
    log = root.with_suffix(".log")
    with log.open("wb") as output:
        done = subprocess.run(
            driver, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, stdout=output, stderr=output, check=False,
        )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, f"the run was to be killed {point}: {log.read_text()[-2000:]}"


@pytest.fixture(scope="module")
def undisturbed(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[Any, ...], tuple[Any, ...]]:
    """A lake after the first run with the second delivery landed, its state then, and after the second run."""
    root = tmp_path_factory.mktemp("undisturbed")
    lake = at(spark, root / "lake")
    lake.root.mkdir()
    first_delivery(lake)
    with run_lock(lake.root, "first"):
        lake.run()
    second_delivery(lake)
    shutil.copytree(lake.root, root / "before")
    before = state(lake)
    lake.run()
    after = state(lake)
    assert before != after
    assert all(after[1].values()), "every table has rows to compare"
    assert after[2]["clean.orders"], "and so has the quarantine"
    return root / "before", before, after


@pytest.mark.parametrize(
    "point",
    [
        "after a manifest was written",
        "after a bronze commit",
        "after the quarantine was written",
        "during a merge",
        "after a silver commit",
    ],
)
def test_a_second_run_that_is_killed_and_resumed(
    spark: SparkSession, undisturbed: tuple[Path, tuple[Any, ...], tuple[Any, ...]], tmp_path: Path, point: str
) -> None:
    ready, _, after = undisturbed
    root = tmp_path / "lake"
    shutil.copytree(ready, root)
    lake = at(spark, root)
    killed(root, point)
    resume(lake)
    assert state(lake) == after
    assert set(lake.run().statuses.values()) == {"unchanged"}


def test_a_first_run_that_is_killed_while_it_writes_and_again_while_it_resumes(
    spark: SparkSession, undisturbed: tuple[Path, tuple[Any, ...], tuple[Any, ...]], tmp_path: Path
) -> None:
    _, before, _ = undisturbed
    lake = at(spark, tmp_path / "lake")
    lake.root.mkdir()
    first_delivery(lake)
    killed(lake.root, "during the first write")
    killed(lake.root, "during a gold write")
    resume(lake)
    assert state(lake) == before


def resume(lake: TestLake) -> None:
    """Run again as a command does: under the lock, once the killed run's JVM is gone."""
    began = time.monotonic()
    with run_lock(lake.root, "resumed"):
        lake.run(run="resumed")
    assert time.monotonic() - began < 300
