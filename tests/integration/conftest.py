"""Lakes for the tests over real tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakehouse import graph
from lakehouse.declare import Declared
from lakehouse.plan import Lake
from lakehouse.tracking import tracking
from tests.lakes import TestLake
from tests.parcels import Place, parcels


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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes two seconds to make one, so that the tests copy it."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with tracking(f"sqlite:///{database}") as client:
        client.search_experiments()
    return database


@pytest.fixture
def place(tmp_path: Path, empty_database: Path) -> Place:
    """A lake with a shop's parcels, and a database for MLflow."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    place = Place(tmp_path / "lake", f"sqlite:///{tmp_path / 'mlflow.db'}", (tmp_path / "mlartifacts").as_uri())
    place.write(parcels())
    return place


@pytest.fixture(scope="session")
def trained_parcels(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A good champion and a weak challenger, for tests that copy them (`tests.served.copy_of`)."""
    from threadpoolctl import threadpool_limits

    from tests.served import train_two

    with threadpool_limits(1):
        return train_two(tmp_path_factory.mktemp("trained"))
