"""A run killed in the middle of a write, its JVM with it, and run again, ends in the tables of an undisturbed run."""

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

from lakehouse.catalog import Lake
from lakehouse.definitions import graph
from tests.faults.compare import Content, assert_same, content
from tests.faults.deliveries import FIRST, SECOND, land
from tests.faults.processes import Order, Runs
from tests.lakes import TestLake
from tests.paths import PROJECT

MODULES = ("tests.orders",)


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
    make_lake: Callable[..., TestLake], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Content, Content]:
    """A lake with the second delivery landed, what it held before, and what it holds after the second run."""
    lake = make_lake(modules=MODULES)
    land(lake, FIRST)
    lake.run()
    before = content(lake)
    land(lake, SECOND)
    ready = tmp_path_factory.mktemp("ready") / "lake"
    shutil.copytree(lake.root, ready)
    lake.run()
    return ready, before, content(lake)


def test_runs_killed_while_they_write_for_the_first_time(
    make_lake: Callable[..., TestLake], runs: Runs, undisturbed: tuple[Path, Content, Content]
) -> None:
    _, before, _ = undisturbed
    lake = make_lake(modules=MODULES)
    land(lake, FIRST)
    killed(lake.root, "during the first write")
    killed(lake.root, "during a gold write")
    runs.completed(Order(str(lake.root), MODULES))
    assert_same(lake, before)


def test_a_run_killed_while_it_merges(
    spark: SparkSession, runs: Runs, undisturbed: tuple[Path, Content, Content], tmp_path: Path
) -> None:
    ready, _, after = undisturbed
    lake = TestLake(spark, Lake(graph.load(MODULES), tmp_path / "lake"))
    shutil.copytree(ready, lake.root)
    killed(lake.root, "during a merge")
    runs.completed(Order(str(lake.root), MODULES))
    assert_same(lake, after)
    assert runs.completed(Order(str(lake.root), MODULES)) == []
