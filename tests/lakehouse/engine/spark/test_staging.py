"""Staging by Spark's workers gives the table that staging in one process gives."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from deltalake import DeltaTable

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import source
from lakehouse.engine.spark import staging
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.engine.spark.staging import split_into_chunks
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader import isolation
from tests.lakes import ITEM_TYPES, TestLake, items_csv, landed_items

Lakes = Callable[..., TestLake]
COLUMNS = (*ITEM_TYPES, "_file_id", "_row", "_source_file", "_malformed", "_rescued")


def create_files(*sizes: int) -> list[LandedFile]:
    return [LandedFile(f"f{number:03}", size, 0) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("files", "size", "counts"),
    [
        (create_files(5), 10, [1]),
        (create_files(5, 5), 10, [1, 1]),
        (create_files(0, 0, 0), 10, [3]),
        (create_files(*[1] * 30), 10, [10, 10, 10]),
        (create_files(100, 1, 1), 10, [1, 2]),
    ],
)
def test_files_are_split_into_chunks(files: list[LandedFile], size: int, counts: list[int]) -> None:
    chunks = split_into_chunks(files, size)
    assert [len(chunk) for chunk in chunks] == counts
    assert [file for chunk in chunks for file in chunk] == files


@pytest.mark.parametrize("new_column", ["rescue", "add"])
def test_workers_and_one_process_write_the_same_table(
    make_lake: Lakes, monkeypatch: pytest.MonkeyPatch, new_column: str
) -> None:
    declared = source(
        "raw.items",
        landing="items",
        columns=tuple(ITEM_TYPES),
        contract=Contract(new_column=new_column),  # type: ignore[arg-type]
        on_redelivery="replace",
    )
    lakes = {name: make_lake(declared, name=name) for name in ("process", "workers")}
    for delivery in (1, 2):
        for name, lake in lakes.items():
            for number in range(4):
                lake.land("raw.items", f"{number}.csv", items_csv(f"{number},{delivery},1", "2"))
            lake.land("raw.items", f"more {delivery}.csv", f"id,at,value,gate\n9,{delivery},1,A5\n")
            lake.land("raw.items", f"bad {delivery}.csv", items_csv('1,"1,1'))
            with monkeypatch.context() as patched:
                if name == "workers":
                    patched.setattr(SparkEngine, "_find_master", lambda _: "spark://127.0.0.1:7077")
                lake.run()
    process, workers = lakes.values()
    columns = (*COLUMNS, *(["gate"] if new_column == "add" else []))
    assert workers.rows("raw.items", *columns) == process.rows("raw.items", *columns)
    assert len(workers.rows("raw.items", "id")) == 10
    assert workers.rejected("raw.items") == process.rejected("raw.items") != {}
    assert workers.record("raw.items").column_changes == process.record("raw.items").column_changes
    path = str(workers.lake.get_path("raw.items"))
    assert DeltaTable(path, version=0).count() == 9
    assert set(workers.run().statuses.values()) == {"unchanged"}


def test_a_file_that_ends_a_worker_is_looked_for(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    lake = make_lake(landed_items)
    for name in ("1.csv", "2.csv"):
        lake.land("raw.items", name, items_csv(f"{name},1,1"))
    monkeypatch.setattr(SparkEngine, "_find_master", lambda _: "spark://127.0.0.1:7077")
    with monkeypatch.context() as patched:
        patched.setattr(staging, "_stage_chunks", end)
        failed = lake.attempt("raw.items")["raw.items"]
    assert failed.error == (
        "raw.items: a process of Spark ended while it read the landed files. "
        "Run again: a file that ends its reader is then rejected."
    )
    assert lake.version("raw.items") is None
    fatal = [file for file in lake.plan("raw.items")["raw.items"].manifest.files if file.path == "items/2.csv"]
    monkeypatch.setattr(isolation, "find_fatal_files", lambda _: fatal)
    lake.run("raw.items")
    assert lake.rows("raw.items", "id") == [("1.csv",)]
    assert lake.rejected("raw.items") == {"2.csv": isolation.REASON}
    assert set(lake.run("raw.items").statuses.values()) == {"unchanged"}
