"""Pages with a changed bit, which only their checksum shows: each reader names the file."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from lakehouse.deltalog.commit_record import Record
from lakehouse.deltalog.sql import query
from lakehouse.deltalog.table_log import TableLog, open_log
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.deltars.tables import DeltaRsTables
from lakehouse.engine.spark.session import read_properties
from lakehouse.errors import DamagedFileError
from tests.lakes import TestLake, items_csv, items_table, landed_items
from tests.paths import CONF

Lakes = Callable[..., TestLake]
PROPERTY = "spark.hadoop.parquet.page.verify-checksum.enabled"
RANDOM = random.Random(1)
VALUES = [str(RANDOM.randrange(10**9)) for _ in range(500)]


def damage(file: Path) -> None:
    """Flip a bit by which a reader without checksums returns other rows, and no error."""
    content, rows = file.read_bytes(), pq.ParquetFile(file).read()
    for offset in range(len(content) // 4, len(content)):
        file.write_bytes(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
        try:
            if pq.ParquetFile(file).read() != rows:
                return
        except (OSError, pa.ArrowException):
            continue
    raise AssertionError("every flip is noticed")


def get_log(path: Path) -> TableLog:
    log = open_log(path)
    assert log is not None
    return log


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table of two files without Spark."""
    target = Target("gold.items", tmp_path / "gold" / "items", ("id",))
    for batch in (1, 2):
        record = Record("run", batch, 1, {}, {"written": 1}, "", "", "2024-01-31T00:00:00")
        rows = pa.table({"id": range(len(VALUES)), "value": VALUES})
        DeltaRsTables().append(rows, target, Commit(target.name, record))
    return tmp_path / "gold" / "items"


def test_every_read_names_the_damaged_file(table: Path) -> None:
    name = get_log(table).list_files()[-1]
    damage(table / name)
    dataset = get_log(table).open_dataset()
    for read in (
        dataset.to_table,
        lambda: list(dataset.to_batches(columns=["value", "id"])),
        lambda: dataset.head(10**6),
        lambda: query(table.parent.parent, "SELECT max(value), sum(id) FROM gold.items"),
    ):
        with pytest.raises(DamagedFileError) as raised:
            read()
        text = f"{table}: the file {name} is damaged: the checksum of a page does not match. Restore the file."
        assert (str(raised.value), raised.value.path) == (text, str(table / name))


def test_rows_without_damage_are_read(table: Path) -> None:
    write_deltalake(table, pa.table({"id": [1], "value": ["by a writer without checksums"]}), mode="append")
    dataset = get_log(table).open_dataset()
    assert dataset.to_table().num_rows == dataset.count_rows() == 2 * len(VALUES) + 1
    assert dataset.head(3, columns=["id"]).num_rows == 3
    with pytest.raises(pa.ArrowInvalid, match="No match for FieldRef"):
        dataset.to_table(columns=["missing"])


@pytest.fixture
def verifying(spark: SparkSession) -> Iterator[SparkSession]:
    """Set the property of the profiles in the session of the tests."""
    hadoop, name = spark.sparkContext._jsc.hadoopConfiguration(), PROPERTY.removeprefix("spark.hadoop.")  # type: ignore[union-attr]
    hadoop.set(name, read_properties(CONF / "spark" / "local.conf").get(PROPERTY, "false"))
    yield spark
    hadoop.unset(name)


def test_every_profile_verifies_pages() -> None:
    files = (CONF / "spark" / f"{profile}.conf" for profile in ("local", "minio", "cluster"))
    assert [read_properties(file).get(PROPERTY) for file in files] == ["true"] * 3


@pytest.mark.usefixtures("verifying")
def test_spark_writes_and_verifies_checksums(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table())
    lake.land("raw.items", "1.csv", items_csv(*(f"{number},1,{value}" for number, value in enumerate(VALUES))))
    lake.run("raw.items")
    [name] = lake.open_log("raw.items").list_files()
    file = lake.lake.get_path("raw.items") / name
    content = file.read_bytes()
    damage(file)
    error = lake.attempt("clean.items").errors["clean.items"]
    assert error.startswith("a checksum does not match, the file is damaged (file:/")
    assert error.endswith(f"{name}). Restore the file.")
    file.write_bytes(content)
    lake.run("clean.items")
    [name] = lake.open_log("clean.items").list_files()
    damage(lake.lake.get_path("clean.items") / name)
    with pytest.raises(DamagedFileError, match=name):
        lake.open_log("clean.items").open_dataset().to_table()
