"""The commands of docs/howto/backup.md: runs work between them, then the lake is lost and restored."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import Append, Merge, Rebuild
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.spark.tables import SparkTables
from lakehouse.errors import LockError, MissingStateError
from lakehouse.quality import quarantine
from lakehouse.quality.reconciliation import reconcile
from lakehouse.storage.lock import lock_lake
from lakehouse.writes.replay import replay_rejects
from tests.lakes import ITEM_TYPES, TestLake, items_csv, items_table, landed_items, parse_items
from tests.paths import PROJECT

Lakes = Callable[..., TestLake]
PAGE = (PROJECT / "docs" / "howto" / "backup.md").read_text(encoding="utf-8")
COPYING, MODELS, RESTORING, BUCKET = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
LAYERS = {"gold": "mart", "silver": "clean", "bronze": "raw"}
SMALL = (Rule("value_is_small", "value < 10"),)


@table("mart.items", columns=ITEM_TYPES, write=Merge(newest_by=("at",)), key=("id",), items="clean.items")
def mart(items: Any) -> Any:
    """One row per item."""
    return items.select(*ITEM_TYPES)


@table("mart.all", columns=ITEM_TYPES, write=Rebuild(), key=("id",), items="clean.items")
def everything(items: Any) -> Any:
    """One row per item."""
    return items.select(*ITEM_TYPES)


event_log = table("clean.log", columns=ITEM_TYPES, write=Append(), items="raw.items")(parse_items)
DECLARED = (landed_items, items_table(rules=SMALL), event_log, mart, everything)
LENIENT = (landed_items, items_table(rules=(Rule("value_is_small", "value < 60"),)), event_log, mart, everything)


def split_commands(block: str) -> tuple[str, list[str]]:
    """Return the commands of a block for the layers of this lake: the preparation, and one command for each step."""
    for layer, own_layer in LAYERS.items():
        block = block.replace(f"logs {layer}\n", f"logs {own_layer}\n")
    lines = block.strip().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("logs outcomes"))
    return "\n".join(lines[:first]), lines[first:]


def run_script(script: str, root: Path, copy: Path) -> None:
    subprocess.run(["bash", "-c", script], env={**os.environ, "DATA": str(root), "COPY": str(copy)}, check=True)


def state(lake: TestLake) -> dict[str, Any]:
    """Return the rows and pending rejects, without the numbers of deliveries, which depend on the order of batches."""
    originals = [json.loads(reject["original"]) for reject in quarantine.find_pending_rejects(lake.lake, "clean.items")]
    return {
        **{name: lake.rows(name, *ITEM_TYPES) for name in lake.lake.graph.declarations if name != "raw.items"},
        "raw.items": lake.rows("raw.items", *ITEM_TYPES),
        "pending": sorted([{k: v for k, v in row.items() if not k.startswith("_")} for row in originals], key=str),
    }


def find_differences(lake: TestLake) -> list[tuple[str, tuple[str, ...]]]:
    return [(entry.table, entry.differences) for entry in reconcile(lake.lake) if entry.differences]


def lose_and_restore(lake: TestLake, copy: Path) -> None:
    shutil.rmtree(lake.root)
    lake.root.mkdir()
    run_script(RESTORING, lake.root, copy)


def run_until_idle(lake: TestLake) -> None:
    """Run until no table has work."""
    for _ in range(9):
        if not any(step.has_work for step in lake.plan().values()):
            return
        lake.run()
    raise AssertionError("every run leaves more work")


def test_a_copy_made_during_runs_becomes_the_lake(make_lake: Lakes, tmp_path: Path) -> None:
    lake, copy, numbers = make_lake(*DECLARED), tmp_path / "copy", iter(range(1, 99))
    copy.mkdir()

    def work(run: Callable[[], object]) -> None:
        number = next(numbers)
        lines = (f"{number},1,{number % 10}", f"1,{number},{number % 10}", f"{number},2,{number}0")
        lake.land("raw.items", f"{number}.csv", items_csv(*lines))
        run()

    work(lake.run)
    work(lake.run)
    lenient = lake.with_tables(*LENIENT)
    meanwhile: dict[str, list[Callable[[], object]]] = {
        "logs outcomes": [lambda: replay_rejects(lake.engine, lenient.lake, "clean.items", Run("replay", "revision"))],
        "logs mart": [lambda: lake.run("raw.items")],  # Between two commits.
        "logs clean": [lake.run, lake.run],
        "logs raw": [lake.run, lake.run],
        "logs quarantine": [lake.run],
    }
    preparation, steps = split_commands(COPYING)
    for step in steps:
        run_script(f"{preparation}\n{step}", lake.root, copy)
        for run in meanwhile.get(step, []):
            work(run)
    run_until_idle(lake)
    undisturbed = state(lake)
    assert not list(copy.glob(".run*"))

    lose_and_restore(lake, copy)
    ((name, differences),) = find_differences(lake)
    assert name == "clean.items"
    assert "rows that are in its quarantine, too" in str(differences)
    assert replay_rejects(lake.engine, lenient.lake, "clean.items", Run("replay-2", "revision")).blocked == {}
    assert find_differences(lake) == []
    assert "was left unfinished" in str(lake.plan()["raw.items"].reasons)
    run_until_idle(lake)
    assert state(lake) == undisturbed
    assert find_differences(lake) == []


def test_an_interrupted_run_continues_in_the_copy(
    make_lake: Lakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, copy = make_lake(landed_items, items_table(rules=SMALL)), tmp_path / "copy"
    copy.mkdir()
    lake.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50"))
    lake.run()
    lake.land("raw.items", "2.csv", items_csv("3,1,6", "4,1,60"))
    with monkeypatch.context() as changed:
        changed.setattr(SparkTables, "append", lambda *_, **__: 1 / 0)
        assert lake.attempt().statuses == {"raw.items": "written", "clean.items": "failed"}
    run_script(COPYING.replace("logs silver", "logs clean").replace("logs bronze", "logs raw"), lake.root, copy)
    lose_and_restore(lake, copy)
    lake.run()
    assert lake.rows("clean.items") == [(1, 1, 5), (3, 1, 6)]
    assert [reject["batch"] for reject in quarantine.find_pending_rejects(lake.lake, "clean.items")] == [1, 2]
    assert [entry.differences for entry in reconcile(lake.lake)] == [(), ()]


def test_a_lake_with_missing_parts(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, event_log)
    for number in (1, 2):
        lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,5"))
        lake.run()
    complete = lake.rows("clean.log")
    shutil.rmtree(lake.root / "manifests")
    assert "which no manifest names" in str(reconcile(lake.lake)[0].differences)
    with pytest.raises(MissingStateError, match="committed batches lack their manifests"):
        lake.plan()  # Every file would be ingested a second time.
    lake.run(full_refresh=True)
    assert lake.rows("clean.log") == complete
    assert [entry.differences for entry in reconcile(lake.lake)] == [(), ()]

    shutil.rmtree(lake.root / "lake")
    shutil.rmtree(lake.root / "manifests")
    lake.run()
    assert lake.rows("clean.log") == complete

    shutil.rmtree(lake.root / "landing")
    assert [(entry.differences, entry.uncounted_files) for entry in reconcile(lake.lake)] == [((), 2), ((), 0)]
    lake.land("raw.items", "3.csv", items_csv("3,1,5"))
    lake.run()
    assert len(lake.rows("clean.log")) == 3
    with pytest.raises(AssertionError, match="a full refresh would lose rows"):
        lake.run(full_refresh=True)


def test_a_shell_can_hold_the_lock(tmp_path: Path) -> None:
    with lock_lake(tmp_path, "run"):
        pass
    command = ["flock", "--nonblock", str(tmp_path / ".run.lock"), "sh", "-c", "echo held; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockError, match="Another run holds the lake"), lock_lake(tmp_path, "other"):
            pass
        holder.communicate("\n")
    with lock_lake(tmp_path, "other"):
        assert subprocess.run(command, input="\n", text=True, capture_output=True, check=False).returncode == 1


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="needs the program sqlite3")
def test_models_are_copied(tmp_path: Path) -> None:
    import sqlite3

    root, copy = tmp_path / "data", tmp_path / "copy"
    (root / "mlartifacts" / "1").mkdir(parents=True)
    copy.mkdir()
    with sqlite3.connect(root / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (id INTEGER)")
        database.execute("INSERT INTO runs VALUES (7)")
        database.commit()
        database.execute("INSERT INTO runs VALUES (8)")  # Not committed during the copy.
        run_script(MODELS, root, copy)
    assert sqlite3.connect(copy / "mlflow.db").execute("SELECT * FROM runs").fetchall() == [(7,)]
    assert (copy / "mlartifacts" / "1").is_dir()


def test_the_page_copies_the_logs_of_every_layer() -> None:
    layers = re.findall(r"^logs (\w+)$", COPYING, re.M)
    assert layers == re.findall(r"^logs (\w+)$", BUCKET, re.M) == ["outcomes", "gold", "silver", "bronze", "quarantine"]
