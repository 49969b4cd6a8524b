"""The lake's lock: one run at a time, even after a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lakehouse.errors import LockError
from lakehouse.storage import lock
from lakehouse.storage.lease import Lease
from lakehouse.storage.lock import lock_lake

HOLD = """
import sys, time
from pathlib import Path
from lakehouse.storage.lock import lock_lake
with lock_lake(Path(sys.argv[1]), "the-first-run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lake in tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_blocked_run_names_the_holder(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(LockError) as raised, lock_lake(tmp_path, "the-second-run"):
        pass
    assert f"run the-first-run, process {holder.pid} on " in str(raised.value)
    assert time.monotonic() - began < 5
    with lock_lake(tmp_path / "another_lake", "the-second-run"):
        pass


def test_a_blocked_run_waits_as_long_as_set(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(LockError), lock_lake(tmp_path, "the-second-run", wait_seconds=0.5):
        pass
    assert time.monotonic() - began >= 0.5


def test_a_killed_holder_does_not_block(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / ".run.json").read_text())["run"] == "the-first-run"
    with lock_lake(tmp_path, "the-second-run"):
        assert json.loads((tmp_path / ".run.json").read_text())["run"] == "the-second-run"
    assert not (tmp_path / ".run.json").exists()


def test_a_deleted_lock_file_frees_no_lake(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / ".run.lock").unlink(missing_ok=True)
        with pytest.raises(LockError, match="run the-first-run, process "), lock_lake(tmp_path, "the-second-run"):
            pass
    assert json.loads((tmp_path / ".run.json").read_text())["run"] == "the-first-run"
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(LockError), lock_lake(tmp_path, "the-second-run", wait_seconds=0.3):
        pass
    threading.Timer(0.5, holder.kill).start()
    with lock_lake(tmp_path, "the-second-run", wait_seconds=10):
        assert holder.poll() is not None or psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / ".run.json").exists()


def test_a_record_of_another_machine_blocks_no_run(tmp_path: Path) -> None:
    record = {**lock._record("elsewhere", []), "machine": "another one"}
    (tmp_path / ".run.json").write_text(json.dumps(record))
    with lock_lake(tmp_path, "next"):
        pass


def leave_jvm(root: Path, process: psutil.Process) -> None:
    """Write the record of a killed run whose JVM is this process."""
    record = {"run": "killed", "pid": 1, "host": "here", "since": "", "jvms": [[process.pid, process.create_time()]]}
    (root / ".run.json").write_text(json.dumps(record))


def test_a_run_waits_for_a_killed_runs_jvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jvm = subprocess.Popen(["sleep", "1"])
    leave_jvm(tmp_path, psutil.Process(jvm.pid))
    with lock_lake(tmp_path, "next"):
        assert jvm.poll() is not None or psutil.Process(jvm.pid).status() == psutil.STATUS_ZOMBIE
    jvm.wait()

    monkeypatch.setattr(lock, "JVM_EXIT_SECONDS", 0.3)
    jvm = subprocess.Popen(["sleep", "30"])
    leave_jvm(tmp_path, psutil.Process(jvm.pid))
    with pytest.raises(LockError, match=f"The JVM {jvm.pid} of a killed run"), lock_lake(tmp_path, "next"):
        pass
    jvm.kill()
    jvm.wait()
    with lock_lake(tmp_path, "next"):
        pass


def test_a_reused_process_id_blocks_no_run(tmp_path: Path) -> None:
    record = {"run": "killed", "pid": 1, "host": "here", "since": "", "jvms": [[os.getpid(), 12345.0]]}
    (tmp_path / ".run.json").write_text(json.dumps(record))
    with lock_lake(tmp_path, "next"):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "null", "{}"])
def test_an_unreadable_record_blocks_no_run(tmp_path: Path, text: str) -> None:
    (tmp_path / ".run.json").write_text(text)
    with lock_lake(tmp_path, "next"):
        pass


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), lock_lake(tmp_path, "one"):
        raise ValueError("wrong")
    with lock_lake(tmp_path, "two"):
        pass


def test_fences_grow_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    before, after = Lease(), Lease(token=1)  # a later run whose clock shows an earlier time
    with lock_lake(tmp_path, "one", run_lease=before):
        fences = [before.issue_fencing_token() for _ in range(3)]
    with lock_lake(tmp_path, "two", run_lease=after):
        assert after.issue_fencing_token() > max(fences)


def test_only_a_local_holder_counts_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {**lock._record("one", []), "pid": 2**22 + 1}
    assert lock._has_ended(record)
    assert not lock._has_ended({**record, "machine": "a container of the same name"})
    assert not lock._has_ended({**record, "pid": os.getpid()})
    assert not lock._has_ended({"host": record["host"], "pid": record["pid"], "created": 0.0})
