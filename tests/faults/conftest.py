"""Lakes for the tests of bad days, and processes to run them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.sql import SparkSession

from lakehouse import graph
from lakehouse.declare import Declared
from lakehouse.plan import Lake
from tests.faults.processes import Runs, runs_on
from tests.lakes import TestLake


@pytest.fixture(scope="session")
def runs(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Runs in processes of their own."""
    with runs_on(spark, tmp_path_factory.mktemp("runs")) as made:
        yield made


@pytest.fixture(scope="module")
def lake_of(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TestLake]:
    """An empty lake with the given tables, or with those that modules declare."""

    def make(*declared: Declared, modules: tuple[str, ...] = (), name: str = "lake") -> TestLake:
        root = tmp_path_factory.mktemp(name)
        return TestLake(spark, Lake(graph.build(declared) if declared else graph.load(modules), root))

    return make
