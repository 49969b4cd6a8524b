"""A run killed with its JVM in the middle of a write, then repeated, gives the tables of an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from tests.faults.compare import Content, assert_same, content
from tests.faults.deliveries import FIRST, SECOND, land
from tests.faults.processes import Order, Runs
from tests.lakes import TestLake
from tests.paths import PROJECT

MODULES = ("tests.orders",)


def run_and_die(root: Path, point: str) -> None:
    """Run the lake in a process of its own that kills itself at the point."""
    command = [sys.executable, str(Path(__file__).with_name("driver.py")), str(root), point]
    log = root.with_suffix(".log")
    with log.open("wb") as output:
        variables = {**os.environ, "PYTHONPATH": str(PROJECT)}
        result = subprocess.run(command, cwd=PROJECT, env=variables, stdout=output, stderr=output, check=False)
    assert result.returncode == -signal.SIGKILL, f"expected a kill {point}: {log.read_text()[-2000:]}"


@pytest.fixture(scope="module")
def undisturbed(
    make_lake: Callable[..., TestLake], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Content, Content]:
    """Return a lake with the second delivery landed, its content before, and its content after the second run."""
    lake = make_lake(modules=MODULES)
    land(lake, FIRST)
    lake.run()
    before = content(lake)
    land(lake, SECOND)
    ready = tmp_path_factory.mktemp("ready") / "lake"
    shutil.copytree(lake.root, ready)
    lake.run()
    return ready, before, content(lake)


def test_runs_killed_in_first_writes_converge(
    make_lake: Callable[..., TestLake], runs: Runs, undisturbed: tuple[Path, Content, Content]
) -> None:
    _, before, _ = undisturbed
    lake = make_lake(modules=MODULES)
    land(lake, FIRST)
    run_and_die(lake.root, "during the first write")
    run_and_die(lake.root, "during a gold write")
    runs.complete(Order(str(lake.root), MODULES))
    assert_same(lake, before)


def test_a_run_killed_in_a_merge_converges(
    spark: SparkSession, runs: Runs, undisturbed: tuple[Path, Content, Content], tmp_path: Path
) -> None:
    ready, _, after = undisturbed
    lake = TestLake(spark, Catalog(graph.load(MODULES), tmp_path / "lake"))
    shutil.copytree(ready, lake.root)
    run_and_die(lake.root, "during a merge")
    runs.complete(Order(str(lake.root), MODULES))
    assert_same(lake, after)
    assert runs.complete(Order(str(lake.root), MODULES)) == []
