"""Digests of the files that commits add: changed bits and lost files are noticed."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.definitions.rules import Rule
from lakehouse.deltalog.commit_record import Record
from lakehouse.deltalog.digests import FOLDER, Verification, verify_files
from lakehouse.deltalog.table_log import TableLog, open_log
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.deltars.tables import DeltaRsTables
from lakehouse.errors import DamagedFileError
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


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target("clean.items", tmp_path / "items", ("id",))


def append(target: Target, batch: int) -> None:
    """Commit a row without Spark."""
    record = Record(f"run-{batch}", batch, 1, {}, {"written": 1}, "", "", "2024-01-31T00:00:00")
    DeltaRsTables().append(pa.table({"id": [batch]}), target, Commit(target.name, record))


def get_log(target: Target) -> TableLog:
    log = open_log(target.path)
    assert log is not None
    return log


def get_digest_file(target: Target, version: int) -> Path:
    return target.path / FOLDER / f"{version:020d}.json"


def test_the_next_commit_writes_missing_digests(target: Target) -> None:
    """A run that is killed after its commit leaves none."""
    for batch in (1, 2, 3):
        append(target, batch)
    texts = {version: get_digest_file(target, version).read_text() for version in (1, 2)}
    for version in texts:
        get_digest_file(target, version).unlink()
    write_deltalake(target.path, pa.table({"id": [9]}), mode="append")
    append(target, 4)
    assert {version: get_digest_file(target, version).read_text() for version in texts} == texts
    assert not get_digest_file(target, 3).exists(), "another writer made the commit"
    assert verify_files(get_log(target)) == Verification(8, 1)


def test_late_digests_have_the_size_in_the_log(target: Target) -> None:
    for batch in (1, 2, 3):
        append(target, batch)
    lost, short = (next(iter(json.loads(get_digest_file(target, v).read_text())[1:]))["path"] for v in (1, 2))
    for version in (1, 2):
        get_digest_file(target, version).unlink()
    size = (target.path / short).stat().st_size
    (target.path / short).write_bytes(b"short")
    (target.path / lost).unlink()
    append(target, 4)
    assert set(verify_files(get_log(target)).differences) == {
        f"has 5 bytes in {short}, but its commit wrote {size:,}",
        f"lacks the file {lost}",
    }


def test_a_table_without_digests_gets_the_newest(target: Target) -> None:
    for batch in range(1, 25):
        append(target, batch)
    for version in range(24):
        get_digest_file(target, version).unlink()
    append(target, 25)
    versions = [int(file.stem) for file in sorted((target.path / FOLDER).iterdir())]
    assert versions == list(range(4, 25))


def test_a_commit_lies_on_the_disk_before_it_is_reported(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = set[Path](), os.fsync

    def record(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    append(target, 1)
    monkeypatch.setattr(os, "fsync", record)
    append(target, 2)
    [digests] = [json.loads(get_digest_file(target, 1).read_text())]
    files = {target.path / digest["path"] for digest in digests}
    assert len(files) == 2
    assert synced >= {*files, *(file.parent for file in files)}


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL])
def test_a_lost_write_fails_the_run(target: Target, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Some file systems cannot sync at all. That is no lost write."""
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if "_delta_log" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    if code == errno.EINVAL:
        append(target, 1)
        assert get_digest_file(target, 0).exists()
        return
    with pytest.raises(DamagedFileError, match=r"00.json: the disk did not store the file \(Input/output error\)"):
        append(target, 1)
    assert not get_digest_file(target, 0).exists()


def test_a_file_without_access_is_not_reported_as_lost(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    append(target, 1)
    log = get_log(target)
    [name], stat = log.list_files(), Path.stat

    def deny(self: Path, **options: bool) -> os.stat_result:
        if self.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", deny)
    assert verify_files(log).differences == (f"has a file that cannot be read: {name} (Permission denied)",)
    with pytest.raises(PermissionError):
        log.list_missing_files()
