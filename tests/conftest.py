"""What all tests share: one Spark session, and small tables written as text."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StructField

import lakehouse.tracking  # noqa: F401 - before any test imports MLflow, which reads the environment then
from lakehouse.declare import Source, Table
from tests.sessions import small_session

# Spark starts the Java that JAVA_HOME names; ours starts that of the PATH, where the machine's own is put.
JAVA_HOME = str(Path(__file__).with_name("java"))
if (own := os.environ.get("JAVA_HOME")) != JAVA_HOME:
    os.environ |= {"JAVA_HOME": JAVA_HOME} | ({"PATH": f"{own}/bin:{os.environ['PATH']}"} if own else {})

MISSING = "-"


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Tests that interrupt themselves or their children: a worker of pytest-xdist, and all that it starts, would be deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def let_go() -> Iterator[None]:
    """What Python still holds of the JVM, plans above all, the JVM keeps: cycles wait for a collection that seldom comes."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = small_session()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


def cells_of(text: str) -> list[list[str | None]]:
    lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    uneven = [line for line in lines if len(line) != len(lines[0])]
    assert not uneven, f"not as many cells as columns {lines[0]}: {uneven}"
    return [[None if cell == MISSING else cell for cell in line] for line in lines]


def typed_cell(field: StructField) -> Column:
    if isinstance(field.dataType, ArrayType):
        return F.from_json(field.name, field.dataType)
    return F.col(field.name).cast(field.dataType)


@pytest.fixture
def frame(spark: SparkSession) -> Callable[..., DataFrame]:
    """A table written as text, "-" for null: all strings, or typed by a DDL schema with the same columns."""

    def make(text: str, schema: str | None = None) -> DataFrame:
        names, *rows = cells_of(text)
        strings = spark.createDataFrame(rows, ", ".join(f"`{name}` string" for name in names))
        if schema is None:
            return strings
        typed = spark.createDataFrame([], schema)
        assert typed.columns == names, f"columns {names} are not those of {schema}"
        return strings.select(*[typed_cell(field).alias(field.name) for field in typed.schema])

    return make


@pytest.fixture
def landed(frame: Callable[..., DataFrame]) -> Callable[..., DataFrame]:
    """Rows of a bronze table: the source's columns from a table written as text, the others the same in every row."""

    def make(source: Source, text: str, **others: str) -> DataFrame:
        strings = frame(text)
        unknown = {*strings.columns, *others} - {*source.columns, "_source_file", "_row"}
        assert not unknown, f"{source.name} has no columns {unknown}"
        given = {name: F.lit(value) for name, value in others.items()} | {name: F.col(name) for name in strings.columns}
        return strings.select(
            *[given.get(name, F.lit("NA")).alias(name) for name in source.columns],
            given.get("_source_file", F.lit("file.csv")).alias("_source_file"),
            F.lit(1).cast("bigint").alias("_file_id"),
            given.get("_row", F.lit(1)).cast("bigint").alias("_row"),
        )

    return make


@pytest.fixture
def broken_rules() -> Callable[[Table, DataFrame], list[list[str]]]:
    """The names of the table's rules that each row breaks, in the rows' order."""

    def find(table: Table, rows: DataFrame) -> list[list[str]]:
        good = rows.select(*[F.coalesce(F.expr(r.predicate), F.lit(False)).alias(r.name) for r in table.rules])
        return [[name for name, holds in row.asDict().items() if not holds] for row in good.collect()]

    return find
