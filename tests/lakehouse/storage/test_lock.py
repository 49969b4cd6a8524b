"""One run at a time for each lake, whatever became of the last one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lakehouse.errors import LockError
from lakehouse.storage import lock
from lakehouse.storage.lease import Hold
from lakehouse.storage.lock import run_lock

HOLD = """
import sys, time
from pathlib import Path
from lakehouse.storage.lock import run_lock
with run_lock(Path(sys.argv[1]), "the-first-run"):
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


def test_a_second_run_leaves_with_the_holders_name(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(LockError) as raised, run_lock(tmp_path, "the-second-run"):
        pass
    assert f"run the-first-run, process {holder.pid} on " in str(raised.value)
    assert time.monotonic() - began < 5
    with run_lock(tmp_path / "another_lake", "the-second-run"):
        pass


def test_a_second_run_may_wait(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(LockError), run_lock(tmp_path, "the-second-run", wait_seconds=0.5):
        pass
    assert time.monotonic() - began >= 0.5


def test_a_killed_holder_does_not_block(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / ".run.json").read_text())["run"] == "the-first-run"
    with run_lock(tmp_path, "the-second-run"):
        assert json.loads((tmp_path / ".run.json").read_text())["run"] == "the-second-run"
    assert not (tmp_path / ".run.json").exists()


def leave_jvm(root: Path, process: psutil.Process) -> None:
    """What a killed run whose JVM was this process leaves behind."""
    said = {"run": "killed", "pid": 1, "host": "here", "since": "", "jvms": [[process.pid, process.create_time()]]}
    (root / ".run.json").write_text(json.dumps(said))


def test_the_jvm_of_a_killed_run_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jvm = subprocess.Popen(["sleep", "1"])
    leave_jvm(tmp_path, psutil.Process(jvm.pid))
    with run_lock(tmp_path, "next"):
        assert jvm.poll() is not None or psutil.Process(jvm.pid).status() == psutil.STATUS_ZOMBIE
    jvm.wait()

    monkeypatch.setattr(lock, "JVM_SECONDS", 0.3)
    jvm = subprocess.Popen(["sleep", "30"])
    leave_jvm(tmp_path, psutil.Process(jvm.pid))
    with pytest.raises(LockError, match=f"The JVM {jvm.pid} of a run that was killed"), run_lock(tmp_path, "next"):
        pass
    jvm.kill()
    jvm.wait()
    with run_lock(tmp_path, "next"):
        pass


def test_a_process_that_took_the_number_of_a_jvm_is_not_waited_for(tmp_path: Path) -> None:
    said = {"run": "killed", "pid": 1, "host": "here", "since": "", "jvms": [[os.getpid(), 12345.0]]}
    (tmp_path / ".run.json").write_text(json.dumps(said))
    with run_lock(tmp_path, "next"):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "null", "{}"])
def test_a_note_that_cannot_be_read_blocks_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / ".run.json").write_text(text)
    with run_lock(tmp_path, "next"):
        pass


def test_an_error_under_the_lock_lets_go_of_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), run_lock(tmp_path, "one"):
        raise ValueError("wrong")
    with run_lock(tmp_path, "two"):
        pass


def test_a_holder_has_a_larger_number_than_any_before_whatever_the_clock_says(tmp_path: Path) -> None:
    before, after = Hold(), Hold(token=1)  # an hour later by the sun, a year earlier by the clock
    with run_lock(tmp_path, "one", hold=before):
        given = [before.fence() for _ in range(3)]
    with run_lock(tmp_path, "two", hold=after):
        assert after.fence() > max(given)


def test_only_a_process_of_this_very_machine_is_known_to_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {**lock._said("one", []), "pid": 2**22 + 1}
    assert lock._has_ended(said)
    assert not lock._has_ended({**said, "machine": "a container of the same name"})
    assert not lock._has_ended({**said, "pid": os.getpid()})
    assert not lock._has_ended({"host": said["host"], "pid": said["pid"], "created": 0.0})
