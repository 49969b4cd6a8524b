"""Log files deleted or damaged: every reader refuses, in words, or has every row; none ever has fewer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakehouse.catalog import Lake
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


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def to_line_end(file: Path) -> None:
    """Cut as a power cut would, that lost the last blocks: what is left is whole lines, without the files it adds."""
    text = file.read_bytes()
    cut(file, text.index(b'{"add"'))


def flipped(file: Path, what: bytes) -> None:
    """Change one bit behind what is found in the file."""
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(what) + len(what)] ^= 1
    file.write_bytes(damaged)


def zeroed(file: Path) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[200:1200] = bytes(1000)
    file.write_bytes(damaged)


def without(*names: str) -> Callable[[Path], None]:
    def remove(log: Path) -> None:
        for name in names:
            (log / name).unlink()

    return remove


HARMLESS: dict[str, Callable[[Path], None]] = {
    "the first": without(commit(0)),
    "one before the checkpoint": without(commit(1)),
    "where the last checkpoint is": without("_last_checkpoint"),
    "half of where the last checkpoint is": lambda log: cut(log / "_last_checkpoint", 9),
    "half of a checksum": lambda log: cut(log / commit(NEWEST).replace("json", "crc"), 30),
}
DAMAGING: dict[str, Callable[[Path], None]] = {
    "one after the checkpoint": without(commit(3)),
    "the newest": without(commit(NEWEST)),
    "half of the newest": lambda log: cut(log / commit(NEWEST), 200),
    "all that is in the newest": lambda log: cut(log / commit(NEWEST), 0),
    "the end of the newest": lambda log: to_line_end(log / commit(NEWEST)),
    "the end of one after the checkpoint": lambda log: to_line_end(log / commit(3)),
    "half of one after the checkpoint": lambda log: cut(log / commit(3), 200),
    "a bit of a file's name": lambda log: flipped(log / commit(NEWEST), b'"path":"'),
    "a bit of a brace": lambda log: flipped(log / commit(NEWEST), b'{"add":'),
    "the checkpoint": without(CHECKPOINT),
    "half of the checkpoint": lambda log: cut(log / CHECKPOINT, 5000),
    "some bytes of the checkpoint": lambda log: zeroed(log / CHECKPOINT),
}
GRAPH = graph.build([landed_items, items_table()])


@pytest.fixture(scope="module")
def undisturbed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[TestLake, Content]:
    lake = TestLake(spark, Lake(GRAPH, tmp_path_factory.mktemp("undisturbed")))
    for number in range(NEWEST + 1):
        rows = (f"{number},1,{number}", f"{number % 3},{number},{number}")
        set_age(lake.land("raw.items", f"{number}.csv", items_csv(*rows)), 60)
        lake.run()
        if number == CHECKPOINTED:
            for table in TABLES:
                DeltaTable(str(lake.lake.path(table))).create_checkpoint()
    assert set(lake.versions().values()) == {NEWEST}
    return lake, content(lake)


def copied(lake: TestLake, root: Path) -> TestLake:
    shutil.copytree(lake.root, root)
    return TestLake(lake.spark, Lake(GRAPH, root))


def log_of(lake: TestLake, table: str) -> Path:
    return lake.root.joinpath("lake", *table.split("."), "_delta_log")


@pytest.mark.parametrize("lost", HARMLESS)
def test_what_no_reader_needs(undisturbed: tuple[TestLake, Content], tmp_path: Path, lost: str) -> None:
    lake = copied(undisturbed[0], tmp_path / "lake")
    for table in TABLES:
        HARMLESS[lost](log_of(lake, table))
    assert {step.action for step in lake.plan().values()} == {"none"}
    assert set(lake.run().statuses.values()) == {"unchanged"}
    assert_same(lake, undisturbed[1])


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("lost", DAMAGING)
def test_what_is_missed_is_told(undisturbed: tuple[TestLake, Content], tmp_path: Path, table: str, lost: str) -> None:
    lake = copied(undisturbed[0], tmp_path / "lake")
    DAMAGING[lost](log_of(lake, table))
    with pytest.raises(LakehouseError):
        query(lake.root / "lake", f"SELECT * FROM {table}")
    if lost == "a bit of a file's name":  # only who reads the file misses it
        return
    with pytest.raises(LakehouseError, match="the Delta log cannot be read"):
        lake.plan()
    assert lake.attempt().statuses[table] == "failed", "nothing is built on it"


@pytest.mark.parametrize("table", TABLES)
def test_commits_that_are_gone_with_all_that_tells_of_them_are_made_again(
    undisturbed: tuple[TestLake, Content], tmp_path: Path, table: str
) -> None:
    """As when a table is put back from a backup: what it lost is in the landing zone, and on record in manifests."""
    lake = copied(undisturbed[0], tmp_path / "lake")
    for version in (NEWEST, NEWEST - 1):
        for file in log_of(lake, table).glob(f"*{version:020d}*"):
            file.unlink()
    lake.attempt()
    lake.run()  # one batch a run
    assert set(lake.run().statuses.values()) == {"unchanged"}
    assert_same(lake, undisturbed[1])
