"""Digests of the files that commits add: changed bits and lost files are noticed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from lakehouse.definitions.rules import Rule
from lakehouse.deltalog.digests import FOLDER, Verification, verify_files
from lakehouse.deltalog.table_log import open_log
from lakehouse.quality.reconciliation import verify_tables
from tests.lakehouse.writes.test_rollback import roll_back
from tests.lakes import TestLake, items_csv, items_table, landed_items

Lakes = Callable[..., TestLake]
NAMES = ("raw.items", "clean.items", "quarantine.clean.items")


@pytest.fixture(scope="module")
def lake(make_lake: Lakes) -> TestLake:
    """A lake with two deliveries. Each has a row for the table, and one for its quarantine."""
    lake = make_lake(landed_items, items_table(rules=(Rule("value_is_small", "value < 10"),)))
    for number in (1, 2):
        lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,5", f"{number + 10},1,{50 + number}"))
        lake.run(run=f"run-{number}")
    return lake


def get_paths(lake: TestLake) -> dict[str, Path]:
    return dict(
        zip(NAMES, (*map(lake.lake.get_path, NAMES[:2]), lake.lake.get_quarantine_path("clean.items")), strict=True)
    )


def test_each_commit_writes_the_digests_of_its_files(lake: TestLake) -> None:
    for path in get_paths(lake).values():
        for version in (0, 1):
            log = path / "_delta_log" / f"{version:020d}.json"
            added = [json.loads(line)["add"]["path"] for line in log.read_text().splitlines() if '{"add"' in line]
            digests = {digest["path"]: digest for digest in json.loads((path / FOLDER / log.name).read_text())}
            assert added and {*added, f"_delta_log/{log.name}"} <= set(digests)
            assert all(digest["size"] == (path / file).stat().st_size for file, digest in digests.items())
    results = verify_tables(lake.lake)
    assert set(results) == set(NAMES)
    assert {(result.unverified_files, result.differences) for result in results.values()} == {(0, ())}


def test_every_flipped_bit_is_noticed(lake: TestLake) -> None:
    generator, noticed = random.Random(1), 0
    # A first attempt at a write may leave files that no commit names.
    files = [(path, name) for path in get_paths(lake).values() for name in DeltaTable(str(path)).file_uris()]
    assert len(files) == 6
    for _ in range(500):
        path, name = generator.choice(files)
        file = Path(name)
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        log = open_log(path)
        assert log is not None
        noticed += verify_files(log).differences == (f"has other content in {file.name} than its commit wrote",)
        file.write_bytes(content)
    assert noticed == 500
    assert all(result.differences == () for result in verify_tables(lake.lake).values())


def test_truncated_and_lost_files_are_named(lake: TestLake) -> None:
    path = get_paths(lake)["clean.items"]
    name = DeltaTable(str(path)).to_pyarrow_dataset().files[0].rsplit("/", 1)[-1]
    file, digests = path / name, path / FOLDER / f"{0:020d}.json"
    content, text = file.read_bytes(), digests.read_bytes()
    file.write_bytes(content[:9])
    expected = f"has 9 bytes in {name}, but its commit wrote {len(content):,}"
    assert verify_files(lake.open_log("clean.items")).differences == (expected,)
    file.unlink()
    assert verify_files(lake.open_log("clean.items")).differences == (f"lacks the file {name}",)
    file.write_bytes(content)
    digests.write_bytes(text[:9])
    (damaged,) = verify_files(lake.open_log("clean.items")).differences
    assert damaged == f"has damaged digests in _digests/{digests.name}"
    digests.write_bytes(text)


def test_maintenance_and_rollback_keep_digests(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table())
    for number in (1, 2, 3):
        lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,5"))
        lake.run(run=f"run-{number}")
    first = next(lake.lake.get_path("clean.items").glob("*.parquet"))
    roll_back(lake, "run-3")
    assert {result.unverified_files for result in verify_tables(lake.lake).values()} == {0}
    table = DeltaTable(str(lake.lake.get_path("clean.items")))
    table.optimize.compact()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    assert not first.exists()
    result = verify_files(lake.open_log("clean.items"))
    assert (result.unverified_files, result.differences) == (1, ())
    lake.run()
    assert verify_files(lake.open_log("clean.items")).differences == ()


def test_a_commit_survives_unwritable_digests(make_lake: Lakes, caplog: pytest.LogCaptureFixture) -> None:
    lake = make_lake(landed_items)
    lake.lake.get_path("raw.items").mkdir(parents=True)
    (lake.lake.get_path("raw.items") / FOLDER).write_text("")
    lake.land("raw.items", "1.csv", items_csv("1,1,5"))
    lake.run()
    assert lake.rows("raw.items", "id") == [("1",)]
    assert "no digests of version 0 were written" in caplog.text
    assert verify_files(lake.open_log("raw.items")) == Verification(0, 1)
