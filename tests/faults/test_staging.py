"""Processes that end while they read landed files: no row is lost, and a file that ends them is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lakehouse.definitions.sources import source
from lakehouse.engine.deltars import writer
from lakehouse.landing.reader import isolation
from tests.lakes import TestLake, items_csv, landed_items
from tests.paths import PROJECT

Lakes = Callable[..., TestLake]

# The reader of a process: it dies of one file, and waits at another.
READER = """
import os, signal, time
from lakehouse.landing.reader.reading import FileReading
read = FileReading.read_batches
def read_batches(self):
    if "fatal" in self.file.path:
        os.kill(os.getpid(), signal.SIGKILL)
    for batch in read(self):
        yield batch
        while "slow" in self.file.path:
            time.sleep(0.1)
            yield batch.slice(0, 0)
FileReading.read_batches = read_batches
"""


@pytest.fixture
def start_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TestLake], subprocess.Popen[str]]:
    """Return a function that starts a run of raw.items in a process of its own."""
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "sitecustomize.py").write_text(READER)
    (tmp_path / "reader" / "declared_items.py").write_text("from tests.lakes import landed_items\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'reader'}:{PROJECT}")

    def start(lake: TestLake) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lakehouse.cli.main", "run", "-s", "raw.items"]
        settings = {"LAKEHOUSE_ROOT": str(lake.root), "LAKEHOUSE_DECLARATIONS": '["declared_items"]'}
        others = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=PROJECT, env=others | settings, **pipes)

    return start


def test_files_that_kill_their_reader_are_rejected(
    make_lake: Lakes, start_run: Callable[[TestLake], subprocess.Popen[str]]
) -> None:
    """The first process dies in the middle of the batch. The next one tries the files in processes of their own."""
    lake = make_lake(landed_items)
    for number in range(4):
        lake.land("raw.items", f"{number}.csv", items_csv(f"{number},1,1"))
    for name in ("fatal_1.csv", "fatal_2.csv"):
        lake.land("raw.items", name, items_csv("99,1,1"))
    first = start_run(lake)
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL
    assert lake.version("raw.items") is None
    second = start_run(lake)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert lake.rows("raw.items", "id") == [("0",), ("1",), ("2",), ("3",)]
    assert lake.rejected("raw.items") == dict.fromkeys(("fatal_1.csv", "fatal_2.csv"), isolation.REASON)
    assert set(lake.run().statuses.values()) == {"unchanged"}


def test_an_error_is_no_death(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(landed_items)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    with monkeypatch.context() as patched:
        patched.setattr(writer, "put_into", lambda *_: 1 / 0)
        assert lake.attempt().report.has_failed
    monkeypatch.setattr(isolation, "find_fatal_files", lambda _: 1 / 0)
    lake.run()
    assert lake.rows("raw.items", "id") == [("1",)]


def test_an_interrupt_ends_the_reading(
    make_lake: Lakes, start_run: Callable[[TestLake], subprocess.Popen[str]]
) -> None:
    lake = make_lake(landed_items)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    slow = lake.land("raw.items", "slow.csv", items_csv("2,1,1"))
    mark = lake.root / "manifests" / "raw.items" / "00000001.staging.json"
    run = start_run(lake)
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.1)
    time.sleep(0.5)
    began = time.monotonic()
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=60)
    assert (run.returncode, time.monotonic() - began < 10) == (130, True), output
    assert "Traceback" not in output
    assert not mark.exists()
    assert not [*lake.root.rglob("*.parquet")]
    assert lake.version("raw.items") is None
    slow.write_text(items_csv("2,1,1"))
    lake.run()
    assert lake.rows("raw.items", "id") == [("1",), ("2",)]


def test_twenty_thousand_tiny_files_are_ingested(make_lake: Lakes) -> None:
    lake = make_lake(source("raw.tiny", landing="tiny", columns=("id", "value")))
    folder = lake.folder("raw.tiny")
    folder.mkdir(parents=True)
    for number in range(20_000):
        (folder / f"{number:05}.csv").write_text(f"id,value\n{number:05},{'x' * 22}\n")
    assert lake.run().counts("raw.tiny") == {"written": 20_000}
    assert lake.rows("raw.tiny", "id") == [(f"{number:05}",) for number in range(20_000)]
    assert [len(manifest.files) for manifest in lake.history("raw.tiny")] == [5_000] * 4
    (folder / "new.csv").write_text("id,value\nnew,x\n")
    assert lake.run().counts("raw.tiny") == {"written": 1}
