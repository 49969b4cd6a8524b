"""The lake's lock: one run at a time."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from lakehouse.clock import now
from lakehouse.errors import LockError
from lakehouse.storage import lease, location
from lakehouse.storage.lease import Lease, hold_lease
from lakehouse.storage.location import Location
from lakehouse.storage.preflight import require_conditional_put
from lakehouse.storage.s3 import S3Path, get_client

LOCK_FILE = ".run.lock"
TOKEN_FILE = ".run.token"  # noqa: S105  # no secret: a number
# A JVM ends when its Python process has ended; after a kill it may take this long to notice.
JVM_EXIT_SECONDS = 60.0
POLL_SECONDS = 0.2


@contextmanager
def lock_lake(root: Location, run: str, wait_seconds: float = 0, run_lease: Lease | None = None) -> Iterator[None]:
    """Hold the lake's lock.

    In a folder, the operating system releases the lock when its process ends, however it ends. A lock file that was
    deleted is no lock, so `.run.json` names the process as well. A JVM can outlive its Python process for a moment and
    still commit, so the next run waits for that JVM. In a bucket, the lock is a lease.
    The next run waits until a killed run's lease has expired, unless that run was on this machine.

    Args:
        run: this run's id; other runs report it while they are blocked.
        wait_seconds: how long to wait for another run.
        run_lease: records until when the lock is held, and its token.

    Raises:
        LockError: another run holds the lake, or a killed run's JVM does not end.
        StorageError: the bucket cannot be reached, or its store does not honour conditions.
    """
    if isinstance(root, S3Path):
        lease.read_holder(root / LOCK_FILE)  # reads before it writes: some stores create a bucket of a misspelt name
        require_conditional_put(get_client(), root.bucket, root.key)
        with hold_lease(root / LOCK_FILE, _record(run, []), wait_seconds, run_lease or Lease(), _has_ended):
            yield
    else:
        with _lock_folder(root, run, wait_seconds):
            _raise_token(root, run_lease or Lease())
            yield


@contextmanager
def _lock_folder(root: Path, run: str, wait_seconds: float) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(root / LOCK_FILE), root / ".run.json"
    deadline = time.monotonic() + wait_seconds
    while not _acquire(lock, holder, deadline - time.monotonic()):
        if time.monotonic() >= deadline:
            raise LockError(
                f"Another run holds the lake {root}: {_describe_holder(holder)}. "
                "Run again when that run has finished, or set LAKEHOUSE_LOCK_WAIT_SECONDS to wait for it."
            )
        time.sleep(POLL_SECONDS)
    try:
        _await_jvm(holder)
        _write_record(holder, run, [])
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _acquire(lock: FileLock, holder: Path, wait_seconds: float) -> bool:
    """Acquire the lock. If its file was deleted meanwhile, the process in the holder's record still holds the lake."""
    try:
        lock.acquire(timeout=max(wait_seconds, 0), poll_interval=POLL_SECONDS)
    except Timeout:
        return False
    if _is_running(_read_record(holder)):
        lock.release()
        return False
    return True


def _raise_token(root: Path, hold: Lease) -> None:
    """Raise the token above every earlier holder's, even if the clock was set back."""
    file = root / TOKEN_FILE
    with suppress(FileNotFoundError, ValueError):
        hold.token = max(hold.token, int(file.read_text(encoding="ascii")) + lease.TOKENS_PER_HOLDER)
    location.put(file, str(hold.token).encode())


def record_jvms(root: Location, run: str) -> None:
    """Record the JVMs that this process started, for the run after a crash. A lease needs no such record."""
    if isinstance(root, Path):
        _write_record(root / ".run.json", run, [[child.pid, child.create_time()] for child in _find_jvms()])


def _find_jvms() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    parent = psutil.Process().parent()  # spark-submit's JVM is the parent of the Python process
    return [process for process in [*children, *([parent] if parent else [])] if "java" in process.name()]


def _record(run: str, jvms: list[list[float]]) -> dict[str, object]:
    own = psutil.Process()
    host = {"pid": own.pid, "created": own.create_time(), "host": socket.gethostname(), "machine": _identify_machine()}
    return {"run": run, **host, "since": now(), "jvms": jvms}


def _identify_machine() -> str:
    """Identify this machine since its last start, and this container. Host names may be shared."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _has_ended(record: Mapping[str, Any]) -> bool:
    """Return True if a holder on this machine was killed. A holder elsewhere counts as running."""
    return record.get("machine") == _identify_machine() and not _is_alive(int(record["pid"]), float(record["created"]))


def _is_running(record: Mapping[str, Any]) -> bool:
    """Return True if a record names a process on this machine that runs."""
    if record.get("machine") != _identify_machine():
        return False
    return _is_alive(int(record.get("pid", 0)), float(record.get("created", 0)))


def _write_record(file: Path, run: str, jvms: list[list[float]]) -> None:
    location.put(file, json.dumps(_record(run, jvms)).encode())


def _read_record(file: Path) -> dict[str, object]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _describe_holder(holder: Path) -> str:
    record = _read_record(holder)
    if not record:
        return "its name was not recorded"
    return f"run {record['run']}, process {record['pid']} on {record['host']}, since {record['since']}"


def _await_jvm(holder: Path) -> None:
    """Wait until the JVMs of a killed run have ended."""
    deadline = time.monotonic() + JVM_EXIT_SECONDS
    for pid, created in _read_record(holder).get("jvms", []):  # type: ignore[attr-defined]
        while _is_alive(int(pid), float(created)):
            if time.monotonic() > deadline:
                raise LockError(
                    f"The JVM {int(pid)} of a killed run is still running and may still write. End it, then run again."
                )
            time.sleep(0.2)


def _is_alive(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
