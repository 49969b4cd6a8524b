"""Lakes for the tests over real tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakehouse import graph
from lakehouse.declare import Declared
from lakehouse.plan import Lake
from tests.lakes import TestLake


@pytest.fixture
def lake_of(spark: SparkSession, tmp_path: Path) -> Callable[..., TestLake]:
    """An empty lake with the given tables."""

    def make(*declared: Declared, name: str = "lake") -> TestLake:
        root = tmp_path / name
        root.mkdir()
        return TestLake(spark, Lake(graph.build(declared), root))

    return make


@pytest.fixture
def shop(spark: SparkSession, tmp_path: Path) -> Callable[..., TestLake]:
    """An empty lake with the tables of the orders example."""

    def make(name: str = "shop") -> TestLake:
        root = tmp_path / name
        root.mkdir()
        return TestLake(spark, Lake(graph.load(["tests.orders"]), root))

    return make
