"""Deleted or damaged log files: every reader raises an error with a reason, or returns every row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from lakehouse.deltalog.sql import query
from lakehouse.errors import LakehouseError
from tests.faults.compare import Content, assert_same, content
from tests.lakes import TestLake, items_csv, items_table, landed_items, set_age

TABLES = ("raw.items", "clean.items")
CHECKPOINTED, NEWEST = 2, 4
CHECKPOINT = f"{CHECKPOINTED:020d}.checkpoint.parquet"


def commit(version: int) -> str:
    return f"{version:020d}.json"


def truncate(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def truncate_before_adds(file: Path) -> None:
    """Truncate as a power cut that lost the last blocks: complete lines remain, without the added files."""
    text = file.read_bytes()
    truncate(file, text.index(b'{"add"'))


def flip_bit_after(file: Path, marker: bytes) -> None:
    """Change one bit after the first occurrence of the marker."""
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(marker) + len(marker)] ^= 1
    file.write_bytes(damaged)


def overwrite_with_zeros(file: Path) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[200:1200] = bytes(1000)
    file.write_bytes(damaged)


def make_deletion(*names: str) -> Callable[[Path], None]:
    def remove(log: Path) -> None:
        for name in names:
            (log / name).unlink()

    return remove


HARMLESS: dict[str, Callable[[Path], None]] = {
    "the first commit": make_deletion(commit(0)),
    "a commit before the checkpoint": make_deletion(commit(1)),
    "the pointer to the last checkpoint": make_deletion("_last_checkpoint"),
    "half of the pointer to the last checkpoint": lambda log: truncate(log / "_last_checkpoint", 9),
    "half of a checksum": lambda log: truncate(log / commit(NEWEST).replace("json", "crc"), 30),
}
DAMAGING: dict[str, Callable[[Path], None]] = {
    "a commit after the checkpoint": make_deletion(commit(3)),
    "the newest commit": make_deletion(commit(NEWEST)),
    "half of the newest commit": lambda log: truncate(log / commit(NEWEST), 200),
    "the content of the newest commit": lambda log: truncate(log / commit(NEWEST), 0),
    "the end of the newest commit": lambda log: truncate_before_adds(log / commit(NEWEST)),
    "the end of a commit after the checkpoint": lambda log: truncate_before_adds(log / commit(3)),
    "half of a commit after the checkpoint": lambda log: truncate(log / commit(3), 200),
    "a bit of a file's name": lambda log: flip_bit_after(log / commit(NEWEST), b'"path":"'),
    "a bit of a brace": lambda log: flip_bit_after(log / commit(NEWEST), b'{"add":'),
    "the checkpoint": make_deletion(CHECKPOINT),
    "half of the checkpoint": lambda log: truncate(log / CHECKPOINT, 5000),
    "some bytes of the checkpoint": lambda log: overwrite_with_zeros(log / CHECKPOINT),
}
GRAPH = graph.build([landed_items, items_table()])


@pytest.fixture(scope="module")
def undisturbed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[TestLake, Content]:
    lake = TestLake(spark, Catalog(GRAPH, tmp_path_factory.mktemp("undisturbed")))
    for number in range(NEWEST + 1):
        rows = (f"{number},1,{number}", f"{number % 3},{number},{number}")
        set_age(lake.land("raw.items", f"{number}.csv", items_csv(*rows)), 60)
        lake.run()
        if number == CHECKPOINTED:
            for table in TABLES:
                DeltaTable(str(lake.lake.get_path(table))).create_checkpoint()
    assert set(lake.versions().values()) == {NEWEST}
    return lake, content(lake)


def copy_lake(lake: TestLake, root: Path) -> TestLake:
    shutil.copytree(lake.root, root)
    return TestLake(lake.spark, Catalog(GRAPH, root))


def get_log_folder(lake: TestLake, table: str) -> Path:
    return lake.root.joinpath("lake", *table.split("."), "_delta_log")


@pytest.mark.parametrize("lost", HARMLESS)
def test_unneeded_log_files_can_be_lost(undisturbed: tuple[TestLake, Content], tmp_path: Path, lost: str) -> None:
    lake = copy_lake(undisturbed[0], tmp_path / "lake")
    for table in TABLES:
        HARMLESS[lost](get_log_folder(lake, table))
    assert {step.action for step in lake.plan().values()} == {"none"}
    assert set(lake.run().statuses.values()) == {"unchanged"}
    assert_same(lake, undisturbed[1])


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("lost", DAMAGING)
def test_lost_log_files_are_reported(
    undisturbed: tuple[TestLake, Content], tmp_path: Path, table: str, lost: str
) -> None:
    lake = copy_lake(undisturbed[0], tmp_path / "lake")
    DAMAGING[lost](get_log_folder(lake, table))
    with pytest.raises(LakehouseError):
        query(lake.root / "lake", f"SELECT * FROM {table}")
    if lost == "a bit of a file's name":  # Only a read of the file fails.
        return
    with pytest.raises(LakehouseError, match="the Delta log cannot be read"):
        lake.plan()
    assert lake.attempt().statuses[table] == "failed", "no run builds on a damaged log"


@pytest.mark.parametrize("table", TABLES)
def test_commits_lost_with_all_traces_are_repeated(
    undisturbed: tuple[TestLake, Content], tmp_path: Path, table: str
) -> None:
    """Lose commits as after a restore of a table from a backup. Their files are landed and named by manifests."""
    lake = copy_lake(undisturbed[0], tmp_path / "lake")
    for version in (NEWEST, NEWEST - 1):
        for file in get_log_folder(lake, table).glob(f"*{version:020d}*"):
            file.unlink()
    lake.attempt()
    lake.run()  # A run ingests one batch.
    assert set(lake.run().statuses.values()) == {"unchanged"}
    assert_same(lake, undisturbed[1])
