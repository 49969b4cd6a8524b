"""Batches of landed files are bounded by the number of files and by their unpacked bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from lakehouse.deltalog.commit_record import Run
from lakehouse.landing import batches
from lakehouse.landing.batches import split_into_batches
from lakehouse.landing.manifest import LandedFile
from lakehouse.plan.rollback import plan_rollback
from lakehouse.plan.steps import RunRequest
from lakehouse.quality.reconciliation import reconcile
from lakehouse.writes.rollback import roll_back_tables
from tests.lakes import TestLake, items_csv, landed_items

GIB = 1 << 30


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),
        ({"a": GIB, "b": GIB, "c": 1}, [["a", "b"], ["c"]]),
        ({"a": 1, "large": 9 * GIB, "b": 1}, [["a"], ["large"], ["b"]]),
        ({"a.gz": GIB // 8, "b.gz": GIB // 8, "c": 0}, [["a.gz"], ["b.gz", "c"]]),
    ],
)
def test_files_are_split_in_their_order(files: dict[str, int], expected: list[list[str]]) -> None:
    landed = [LandedFile(path, size, 0) for path, size in files.items()]
    assert [[file.path for file in batch] for batch in split_into_batches(landed)] == expected


def test_a_batch_has_at_most_5000_files() -> None:
    landed = [LandedFile(str(number), 1, 0) for number in range(10_001)]
    assert [len(batch) for batch in split_into_batches(landed)] == [5000, 5000, 1]


def test_a_run_ingests_all_batches_and_can_be_rolled_back(
    make_lake: Callable[..., TestLake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_FILES", 2)
    lake = make_lake(landed_items)
    lake.land("raw.items", "0.csv", items_csv("0,1,1"))
    lake.run(run="A")
    for number in range(1, 6):
        lake.land("raw.items", f"{number}.csv", items_csv(*[f"{number},1,1"] * (number != 2)) if number != 3 else "")
    results = lake.run(run="B")
    assert results.counts("raw.items") == {"written": 3}
    assert [file.path for file in results["raw.items"].outcome.rejected_files] == ["items/3.csv"]  # type: ignore[union-attr]
    assert [len(manifest.files) for manifest in lake.history("raw.items")] == [1, 2, 1, 1]
    expected = [("0", 1, 1), ("1", 2, 2), ("4", 5, 3), ("5", 6, 4)]
    assert lake.rows("raw.items", "id", "_file_id", "_batch_id") == expected
    assert reconcile(lake.lake)[0].differences == ()
    assert set(lake.run().statuses.values()) == {"unchanged"}

    roll_back_tables(lake.engine, lake.lake, plan_rollback(lake.lake, "B"), Run("undo", "revision"))
    assert lake.rows("raw.items", "id") == [("0",)]
    lake.run(run="C")
    assert [row[0] for row in lake.rows("raw.items", "id")] == ["0", "1", "4", "5"]
    before = lake.version("raw.items")
    lake.run(request=RunRequest(frozenset({"raw.items"})))
    assert [row[0] for row in lake.rows("raw.items", "id")] == ["0", "1", "4", "5"]
    assert lake.version("raw.items") == before + 1, "a full refresh is one commit"
    assert [(manifest.is_full, len(manifest.files)) for manifest in lake.history("raw.items")][-1] == (True, 5)


def test_a_replacement_is_one_commit(make_lake: Callable[..., TestLake], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_FILES", 2)
    lake = make_lake(replace(landed_items, on_redelivery="replace"))
    for delivery in (1, 2, 3):
        for number in range(5):
            lake.land("raw.items", f"{number}.csv", items_csv(f"{number},{delivery},1"))
        lake.land("raw.items", f"new {delivery}.csv", items_csv(f"new {delivery},{delivery},1"))
        lake.run()
        assert lake.version("raw.items") == delivery - 1
        new = [(f"new {earlier}", str(earlier)) for earlier in range(1, delivery + 1)]
        assert lake.rows("raw.items", "id", "at") == [*((str(n), str(delivery)) for n in range(5)), *new]
    lake.run(request=RunRequest(frozenset({"raw.items"})))
    assert lake.version("raw.items") == 3
