"""Missing manifests are rebuilt from bronze and the landing zone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from lakehouse.definitions.write_modes import Append
from lakehouse.errors import MissingStateError
from lakehouse.landing.manifest import Manifest
from lakehouse.quality.reconciliation import reconcile
from lakehouse.quality.repair import RepairPlan, plan_repair, write_manifests
from tests.lakehouse.test_catalog import get_manifest
from tests.lakes import TestLake, customer, items_csv, items_table, json_lines, landed_items, payments_file

Lakes = Callable[..., TestLake]


def repair(lake: TestLake) -> RepairPlan:
    plan = plan_repair(lake.lake)
    write_manifests(lake.lake, plan)
    return plan


def without_rejections(history: list[Manifest]) -> list[Manifest]:
    return [replace(manifest, fingerprint="", rejected_files=()) for manifest in history]


@pytest.fixture
def lake(make_lake: Lakes) -> TestLake:
    """A lake with three batches: two files, the second of them again, one file more."""
    lake = make_lake(landed_items, items_table(Append(), key=()))
    for names in (("a.csv", "b.csv.gz"), ("b.csv.gz",), ("c.csv",)):
        for name in names:
            batch = len(lake.history("raw.items")) + 1
            lake.land("raw.items", name, items_csv(f"{batch},1,5", f'{batch},"2",6'))
        lake.run()
    return lake


def test_lost_manifests_are_rebuilt_as_written(lake: TestLake) -> None:
    before, rows = without_rejections(lake.history("raw.items")), lake.rows("clean.items")
    shutil.rmtree(lake.root / "manifests")
    plan = repair(lake)
    assert (len(plan.writable), plan.is_complete, plan.manifests[0].notes) == (3, True, ())
    after = lake.history("raw.items")
    assert after[1:] == before[1:]
    assert after[0].files[0] == before[0].files[0]
    assert [(file.path, file.identity, file.file_id) for file in after[0].files[1:]] == [("items/b.csv.gz", "", 2)]
    assert not lake.plan()["raw.items"].has_work
    assert [entry.differences for entry in reconcile(lake.lake)] == [(), ()]
    for name, line in (("b.csv.gz", "8,1,5"), ("d.csv", "9,1,5")):
        lake.land("raw.items", name, items_csv(line))
        lake.run()
    assert lake.rows("clean.items") == [*rows, (8, 1, 5), (9, 1, 5)]
    assert lake.rows("raw.items", "_file_id")[-2:] == [(5,), (6,)]
    assert repair(lake) == RepairPlan((), {})


def test_changed_and_deleted_files_have_no_identity(lake: TestLake) -> None:
    rows = lake.rows("clean.items")
    (lake.folder("raw.items") / "a.csv").unlink()
    lake.land("raw.items", "c.csv", items_csv("7,1,5"))
    shutil.rmtree(lake.root / "manifests")
    plan = repair(lake)
    assert [item.notes for item in plan.manifests] == [
        ("landing/items/a.csv is gone. If it lands again, it is a new delivery",),
        (),
        ("landing/items/c.csv has other records than batch 3 read. It is a new delivery",),
    ]
    with pytest.raises(
        AssertionError, match=r"a full refresh would lose rows.*a\.csv is gone.*c\.csv holds other bytes"
    ):
        lake.run(full_refresh=True)
    lake.run()
    assert lake.rows("clean.items") == [*rows, (7, 1, 5)]
    assert not lake.plan()["raw.items"].has_work


def test_doubtful_files_are_named_and_block(lake: TestLake) -> None:
    later = time.time() + 60
    os.utime(lake.folder("raw.items") / "c.csv", (later, later))
    shutil.rmtree(lake.root / "manifests")
    plan = repair(lake)
    assert [item.problems for item in plan.manifests] == [
        (),
        (),
        ("landing/items/c.csv was modified after batch 3 had read it",),
    ]
    assert not plan.is_complete
    with pytest.raises(MissingStateError, match=r"00000003\.json"):
        lake.plan()
    with pytest.raises(AssertionError, match=r"c\.csv was modified after batch 3 had read it\. Restore these files"):
        lake.run(full_refresh=True)


def test_full_refresh_without_manifests_keeps_numbers(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table(Append(), key=()))
    for number in (1, 2):
        lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,5"))
        lake.run()
    shutil.rmtree(lake.root / "manifests")
    lake.run(full_refresh=True)
    assert lake.rows("raw.items", "id", "_file_id", "_batch_id") == [("1", 3, 3), ("2", 4, 3)]
    assert not lake.plan()["raw.items"].has_work
    (lake.folder("raw.items") / "1.csv").unlink()
    get_manifest(lake, 3).unlink()
    with pytest.raises(AssertionError, match=r"a full refresh would lose rows.*1\.csv is gone"):
        lake.run(full_refresh=True)
    plan = repair(lake)
    assert [(item.manifest.batch, item.manifest.is_full) for item in plan.manifests] == [
        (1, False),
        (2, False),
        (3, True),
    ]
    assert not lake.plan()["raw.items"].has_work


def test_batch_without_rows_gets_an_empty_manifest(make_lake: Lakes) -> None:
    lake = make_lake(replace(landed_items, on_redelivery="replace"))
    for line in ("1,1,5", "2,1,5"):
        lake.land("raw.items", "a.csv", items_csv(line))
        lake.run()
    lake.land("raw.items", "empty.csv", items_csv())
    lake.run()
    shutil.rmtree(lake.root / "manifests")
    assert [len(item.manifest.files) for item in repair(lake).manifests] == [0, 1, 0]
    assert [file.path for file in lake.plan()["raw.items"].files] == ["items/empty.csv"]  # type: ignore[attr-defined]
    lake.run()
    assert lake.rows("raw.items", "id", "_file_id") == [("2", 2)]


def test_json_and_parquet_files_are_identified(shop: Callable[[], TestLake]) -> None:
    lake = shop()
    lake.land("raw.customers", "1.json", json_lines(customer(1, "Ada", "Rome", "2024-01-01")))
    lake.land("raw.payments", "1.parquet", payments_file((1, 1, "2024-01-01", 5.0)))
    lake.run("raw.customers", "raw.payments")
    before = without_rejections([*lake.history("raw.customers"), *lake.history("raw.payments")])
    shutil.rmtree(lake.root / "manifests")
    repair(lake)
    assert [*lake.history("raw.customers"), *lake.history("raw.payments")] == before
