"""Fixtures of all tests: one Spark session, small tables written as text, lakes, and processes that run on them."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StructField
from threadpoolctl import threadpool_limits

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declaration, Table

# Before any test imports MLflow, which reads the environment at its import.
from lakehouse.ml.mlflow_client import open_tracking_client
from tests.faults.processes import Runs, runs_on
from tests.lakes import TestLake
from tests.parcels import Place, parcels
from tests.sessions import small_session

# Spark starts the Java in JAVA_HOME. That of the tests starts the Java of the PATH, the machine's JAVA_HOME first.
JAVA_HOME = str(Path(__file__).with_name("java"))
if (own := os.environ.get("JAVA_HOME")) != JAVA_HOME:
    os.environ |= {"JAVA_HOME": JAVA_HOME} | ({"PATH": f"{own}/bin:{os.environ['PATH']}"} if own else {})

MISSING = "-"


@pytest.fixture(scope="session", autouse=True)
def restore_interrupts() -> None:
    """Make interrupts work again: workers of pytest-xdist and their children ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Fit models on one thread: on busy cores the threads of small models wait seconds for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module", autouse=True)
def collect_garbage() -> Iterator[None]:
    """Collect garbage, because the JVM keeps every object that Python refers to, plans above all."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = small_session()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


def parse_cells(text: str) -> list[list[str | None]]:
    lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    uneven = [line for line in lines if len(line) != len(lines[0])]
    assert not uneven, f"not as many cells as columns {lines[0]}: {uneven}"
    return [[None if cell == MISSING else cell for cell in line] for line in lines]


def cast_cell(field: StructField) -> Column:
    if isinstance(field.dataType, ArrayType):
        return F.from_json(field.name, field.dataType)
    return F.col(field.name).cast(field.dataType)


@pytest.fixture
def frame(spark: SparkSession) -> Callable[..., DataFrame]:
    """Make a frame from text, "-" for null: all strings, or cast to a DDL schema with the same columns."""

    def make(text: str, schema: str | None = None) -> DataFrame:
        names, *rows = parse_cells(text)
        strings = spark.createDataFrame(rows, ", ".join(f"`{name}` string" for name in names))
        if schema is None:
            return strings
        empty = spark.createDataFrame([], schema)
        assert empty.columns == names, f"columns {names} are not those of {schema}"
        return strings.select(*[cast_cell(field).alias(field.name) for field in empty.schema])

    return make


@pytest.fixture
def landed(frame: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Make rows of a bronze table: some columns from text, the others with one value in every row."""

    def make(source: Source, text: str, **others: str) -> DataFrame:
        strings = frame(text)
        unknown = {*strings.columns, *others} - {*source.columns, "_source_file", "_row"}
        assert not unknown, f"{source.name} has no columns {unknown}"
        values = {name: F.lit(value) for name, value in others.items()} | {
            name: F.col(name) for name in strings.columns
        }
        return strings.select(
            *[values.get(name, F.lit("NA")).alias(name) for name in source.columns],
            values.get("_source_file", F.lit("file.csv")).alias("_source_file"),
            F.lit(1).cast("bigint").alias("_file_id"),
            values.get("_row", F.lit(1)).cast("bigint").alias("_row"),
        )

    return make


@pytest.fixture
def violated_rules_of() -> Callable[[Table, DataFrame], list[list[str]]]:
    """Return the names of the rules that each row violates, in the rows' order."""

    def find(table: Table, rows: DataFrame) -> list[list[str]]:
        results = rows.select(*[F.coalesce(F.expr(r.predicate), F.lit(False)).alias(r.name) for r in table.rules])
        return [[name for name, passes in row.asDict().items() if not passes] for row in results.collect()]

    return find


@pytest.fixture(scope="session")
def make_lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TestLake]:
    """Make an empty lake with the given tables, or with the tables of modules."""

    def make(*declared: Declaration, modules: tuple[str, ...] = (), name: str = "lake") -> TestLake:
        root = tmp_path_factory.mktemp(name)
        return TestLake(spark, Catalog(graph.build(declared) if declared else graph.load(modules), root))

    return make


@pytest.fixture
def shop(make_lake: Callable[..., TestLake]) -> Callable[..., TestLake]:
    """Make an empty lake with the tables of the orders example."""
    return lambda name="shop": make_lake(modules=("tests.orders",), name=name)


@pytest.fixture(scope="session")
def runs(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Start runs in processes of their own."""
    with runs_on(spark, tmp_path_factory.mktemp("runs")) as processes:
        yield processes


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an MLflow database without runs, which tests copy: MLflow takes two seconds to make it."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with open_tracking_client(f"sqlite:///{database}") as client:
        client.search_experiments()
    return database


@pytest.fixture
def place(tmp_path: Path, empty_database: Path) -> Place:
    """Make a lake with a shop's parcels, and a database for MLflow."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    place = Place(tmp_path / "lake", f"sqlite:///{tmp_path / 'mlflow.db'}", (tmp_path / "mlartifacts").as_uri())
    place.write(parcels())
    return place


@pytest.fixture(scope="session")
def trained_parcels(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Train a good champion and a weak challenger, which tests copy (`tests.served.copy_of`)."""
    from tests.served import train_two

    return train_two(tmp_path_factory.mktemp("trained"))
