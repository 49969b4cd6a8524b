"""Two processes on one lake: two runs, or a reader and the upkeep that removes its files."""

from __future__ import annotations

import signal
from collections.abc import Callable
from os import kill
from pathlib import Path

from deltalake import DeltaTable

from lakehouse.deltalog.sql import query
from tests.faults.compare import assert_same, content
from tests.faults.processes import Order, Runs
from tests.fleet import SNAPSHOTS
from tests.lakes import TestLake, items_csv, items_table, landed_items, set_age

MODULES = ("tests.fleet",)
DELIVERIES = [*SNAPSHOTS.items()]
Lakes = Callable[..., TestLake]


def test_parallel_runs_write_every_row_once(make_lake: Lakes, runs: Runs) -> None:
    """One run names the holder and ends, another waits, and a third lost its lock and commits too late."""
    undisturbed, lake = (make_lake(modules=MODULES, name=name) for name in ("undisturbed", "lake"))
    land(undisturbed, lake, DELIVERIES[:2])
    commits = runs.complete(Order(str(undisturbed.root), MODULES))
    holder = runs.run_until_stopped(Order(str(lake.root), MODULES, "holder", "stop", passed=tuple(commits[:2])))
    assert runs(Order(str(lake.root), MODULES, "hasty", wait_seconds=0)).code == 1
    assert f"Another run holds the lake {lake.root}: run holder, process {holder} on " in runs.read_log()
    patient = runs.start(Order(str(lake.root), MODULES, "patient", wait_seconds=120))
    kill(holder, signal.SIGCONT)
    assert runs.wait(holder).code == 0, runs.read_log()
    answer = runs.wait(patient)
    assert (answer.code, answer.reached) == (0, []), "no work remains after the holder's run"
    assert_same(lake, content(undisturbed))

    land(undisturbed, lake, DELIVERIES[2:])
    runs.complete(Order(str(undisturbed.root), MODULES))
    late = runs.run_until_stopped(Order(str(lake.root), MODULES, "late", "stop", passed=("the manifest of raw.buses",)))
    (lake.root / ".run.lock").unlink()  # As an operator does with a supposedly stale file.
    assert runs(Order(str(lake.root), MODULES, "early", wait_seconds=0)).code == 1, "`.run.json` names the process"
    (lake.root / ".run.json").unlink()
    runs.complete(Order(str(lake.root), MODULES, "next"))
    kill(late, signal.SIGCONT)
    assert runs.wait(late).code == 1
    assert "was not committed by this run; another writer used its number" in runs.read_log()
    assert_same(lake, content(undisturbed))
    assert runs.complete(Order(str(lake.root), MODULES)) == []


def land(first: TestLake, second: TestLake, snapshots: list[tuple[str, str]]) -> None:
    for lake in (first, second):
        for name, snapshot in snapshots:
            set_age(lake.land("raw.buses", name, snapshot), 60)


def maintain(lake: TestLake, table: str) -> None:
    """Remove a table's old files by either engine, with the table's own retention."""
    path = lake.lake.get_path(table)
    lake.spark.sql(f"OPTIMIZE delta.`{path}`")
    lake.spark.sql(f"VACUUM delta.`{path}`")
    upkeep = DeltaTable(str(path))
    upkeep.create_checkpoint()
    upkeep.vacuum(dry_run=False)
    upkeep.cleanup_metadata()


def parquet_files(path: Path) -> set[str]:
    return {file.name for file in path.glob("*.parquet")}


def test_upkeep_removes_no_rows_and_is_no_input(make_lake: Lakes) -> None:
    tables = (landed_items, items_table())
    undisturbed, lake = make_lake(*tables, name="undisturbed"), make_lake(*tables)
    for number in range(3):
        for target in (undisturbed, lake):
            rows = [f"{n},{number},{number}" for n in range(100 * number, 100 * number + 200)]
            target.land("raw.items", f"{number}.csv", items_csv(*rows))
        lake.run("raw")
        if number < 2:
            lake.run()
    undisturbed.run()
    # The second table has not read the third delivery yet.
    for table, size in (("raw.items", 600), ("clean.items", 300)):
        path = lake.lake.get_path(table)
        before = parquet_files(path)
        by_spark = lake.spark.read.format("delta").load(str(path)).toLocalIterator()
        pinned = DeltaTable(str(path))
        by_delta_rs = pinned.to_pyarrow_dataset().to_batches(batch_size=50, batch_readahead=0, fragment_readahead=0)
        first = next(by_delta_rs)
        next(by_spark)
        maintain(lake, table)
        assert lake.version(table) != pinned.version()
        assert before <= parquet_files(path), "files younger than the retention stay"
        assert first.num_rows + sum(batch.num_rows for batch in by_delta_rs) == size
        assert 1 + sum(1 for _ in by_spark) == size
        assert pinned.to_pyarrow_table().num_rows == size
        assert query(lake.root / "lake", f"SELECT count(*) AS n FROM {table}").to_pylist() == [{"n": size}]
        assert lake.spark.read.format("delta").load(str(path)).count() == size
    assert lake.plan()["raw.items"].action == "none"
    results = lake.run()
    assert results.statuses == {"raw.items": "unchanged", "clean.items": "written"}
    assert lake.record("clean.items").rows == {"written": 200, "unchanged": 0, "superseded": 0, "quarantined": 0}
    assert_same(lake, content(undisturbed, delivered=False), delivered=False)
    for table in ("raw.items", "clean.items"):
        maintain(lake, table)
    assert set(lake.run().statuses.values()) == {"unchanged"}
