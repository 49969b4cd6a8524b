"""State that the ledger knows and that is gone: manifests of committed batches, and quarantines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.write_modes import Append
from lakehouse.errors import MissingStateError
from lakehouse.quality import quarantine
from lakehouse.writes.table_writer import TableWriter
from tests.lakehouse.writes.test_rollback import roll_back
from tests.lakes import TestLake, items_csv, items_table, landed_items

Lakes = Callable[..., TestLake]
SMALL = (Rule("value_is_small", "value < 10"),)


def get_manifest(lake: TestLake, batch: int) -> Path:
    return lake.root / "manifests" / "raw.items" / f"{batch:08d}.json"


def deliver(lake: TestLake, *numbers: int) -> None:
    """Land a file with one row for each number, and run after each."""
    for number in numbers:
        lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,5"))
        lake.run(run=f"run-{number}")


@pytest.mark.parametrize("lost", [(1,), (2,), (1, 2)])
def test_a_lost_manifest_stops_plan_and_run(make_lake: Lakes, lost: tuple[int, ...]) -> None:
    lake = make_lake(landed_items, items_table(Append(), key=()))
    deliver(lake, 1, 2)
    contents = {batch: get_manifest(lake, batch).read_bytes() for batch in lost}
    for batch in lost:
        get_manifest(lake, batch).unlink()
    lake.land("raw.items", "3.csv", items_csv("3,1,5"))
    with pytest.raises(
        MissingStateError, match=rf"raw.items: .*{lost[-1]:08d}.json\. Restore .* `lakehouse repair`"
    ) as e:
        lake.plan()
    assert e.value.paths == tuple(str(get_manifest(lake, batch)) for batch in lost)
    assert lake.attempt().statuses == {"raw.items": "failed", "clean.items": "skipped"}
    for batch, content in contents.items():
        get_manifest(lake, batch).write_bytes(content)
    lake.run()
    assert lake.rows("clean.items") == [(1, 1, 5), (2, 1, 5), (3, 1, 5)]


def test_a_lost_manifest_stops_after_log_cleanup(make_lake: Lakes) -> None:
    lake = make_lake(landed_items)
    deliver(lake, 1, 2, 3)
    DeltaTable(str(lake.lake.get_path("raw.items"))).create_checkpoint()
    for version in (0, 1):
        lake.lake.get_path("raw.items").joinpath("_delta_log", f"{version:020d}.json").unlink()
    assert not lake.plan()["raw.items"].has_work
    get_manifest(lake, 1).unlink()
    with pytest.raises(MissingStateError, match=r"00000001\.json"):
        lake.plan()


def test_manifest_of_rejected_files_may_be_lost(make_lake: Lakes) -> None:
    lake = make_lake(landed_items)
    lake.land("raw.items", "bad.csv", "no header")
    lake.run()
    deliver(lake, 1)
    get_manifest(lake, 1).unlink()
    assert [file.path for file in lake.plan()["raw.items"].files] == ["items/bad.csv"]  # type: ignore[attr-defined]
    lake.run()
    assert lake.rows("raw.items", "id") == [("1",)]
    assert "has no header" in lake.rejected("raw.items")["bad.csv"]


def test_full_batch_replaces_earlier_manifests(make_lake: Lakes) -> None:
    lake = make_lake(landed_items)
    deliver(lake, 1, 2)
    lake.run(full_refresh=True, run="full")
    get_manifest(lake, 1).unlink()
    assert not lake.plan()["raw.items"].has_work
    content = get_manifest(lake, 3).read_bytes()
    get_manifest(lake, 3).unlink()
    with pytest.raises(MissingStateError, match=r"00000001.*00000003\.json"):
        lake.plan()
    get_manifest(lake, 3).write_bytes(content)
    roll_back(lake, "full")
    with pytest.raises(MissingStateError, match=r"00000001\.json\."):
        lake.plan()


def test_rollback_needs_no_manifest(make_lake: Lakes) -> None:
    lake = make_lake(landed_items)
    deliver(lake, 1, 2)
    roll_back(lake, "run-2")
    get_manifest(lake, 2).unlink()
    assert [file.path for file in lake.plan()["raw.items"].files] == ["items/2.csv"]  # type: ignore[attr-defined]
    deliver(lake, 3)
    assert lake.rows("raw.items", "id", "_batch_id") == [("1", 1), ("2", 4), ("3", 4)]
    table = DeltaTable(str(lake.lake.get_path("raw.items")))
    table.create_checkpoint()
    for version in range(table.version()):
        lake.lake.get_path("raw.items").joinpath("_delta_log", f"{version:020d}.json").unlink()
    assert not lake.plan()["raw.items"].has_work


@pytest.fixture
def quarantined(make_lake: Lakes) -> TestLake:
    """A lake with one reject in its first and third batch, and none in the second."""
    lake = make_lake(landed_items, items_table(rules=SMALL))
    for number, lines in enumerate((("1,1,5", "2,1,50"), ("3,1,5",), ("4,1,60",)), start=1):
        lake.land("raw.items", f"{number}.csv", items_csv(*lines))
        lake.run()
        shutil.copytree(lake.lake.get_quarantine_path("clean.items"), lake.root / f"copy-{number}")
    return lake


def replace_quarantine(lake: TestLake, copy: str = "") -> None:
    path = lake.lake.get_quarantine_path("clean.items")
    shutil.rmtree(path, ignore_errors=True)
    if copy:
        shutil.copytree(lake.root / copy, path)


@pytest.mark.parametrize("copy", ["", "copy-1"])
def test_a_lost_quarantine_stops_plan_and_run(quarantined: TestLake, copy: str) -> None:
    replace_quarantine(quarantined, copy)
    quarantined.land("raw.items", "4.csv", items_csv("5,1,5"))
    expected = r"clean.items: its quarantine .*/lake/quarantine/clean.items is missing, or lacks the rejects of batch 3"
    with pytest.raises(MissingStateError, match=expected):
        quarantined.plan()
    assert quarantined.attempt().statuses == {"raw.items": "written", "clean.items": "failed"}
    for read in (lambda: quarantine.find_pending_rejects(quarantined.lake, "clean.items"), quarantined.plan):
        with pytest.raises(MissingStateError, match="lacks the rejects"):
            read()
    replace_quarantine(quarantined, "copy-3")
    quarantined.run()
    assert quarantined.rows("clean.items") == [(1, 1, 5), (3, 1, 5), (5, 1, 5)]
    assert [row["id"] for row in quarantined.originals("clean.items")] == ["2", "4"]


def test_a_rebuild_replaces_a_lost_quarantine(quarantined: TestLake) -> None:
    replace_quarantine(quarantined)
    quarantined.run("clean.items", full_refresh=True)
    assert [row["id"] for row in quarantined.originals("clean.items")] == ["2", "4"]
    lenient = quarantined.with_tables(landed_items, items_table())
    replace_quarantine(lenient)
    lenient.run("clean.items", full_refresh=True)
    assert not lenient.plan()["clean.items"].has_work
    assert lenient.rows("clean.items") == [(1, 1, 5), (2, 1, 50), (3, 1, 5), (4, 1, 60)]


def test_records_of_earlier_versions_know_quarantines(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(landed_items, items_table(rules=SMALL))
    with monkeypatch.context() as changed:
        changed.setattr(TableWriter, "_find_quarantined_batch", lambda *_: None)
        for number, value in ((1, 50), (2, 5)):
            lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,{value}"))
            lake.run()
    assert lake.record("clean.items").quarantined_batch is None
    path = lake.lake.get_quarantine_path("clean.items")
    path.rename(lake.root / "copy")
    with pytest.raises(MissingStateError, match="lacks the rejects of batch 1"):
        lake.plan()
    (lake.root / "copy").rename(path)
    deliver(lake, 3)
    assert lake.record("clean.items").quarantined_batch == 1
