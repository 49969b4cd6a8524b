"""One run at a time for each lake."""

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
from lakehouse.storage.lease import Hold, leased
from lakehouse.storage.location import Location
from lakehouse.storage.preflight import require_conditional_put
from lakehouse.storage.s3 import S3Path, client

LOCK = ".run.lock"
TOKEN = ".run.token"  # noqa: S105  # no secret: a number
# How long the JVM of a holder that was killed may take to notice: it ends when its Python process is gone.
JVM_SECONDS = 60.0


@contextmanager
def run_lock(root: Location, run: str, wait_seconds: float = 0, hold: Hold | None = None) -> Iterator[None]:
    """Hold the lake; leave with the holder's name where another run has it longer than ``wait_seconds``.

    In a folder, the operating system lets go of the lock when its process ends, however it ends. A JVM can outlive its
    Python process for a moment and still commit: a successor waits for it. In a bucket, the lock is a lease: a successor
    of a killed run waits for it to run out; ``hold`` says while it is held.

    Raises:
        LockError: another run holds the lake, or a killed run's JVM does not end.
        StorageError: the bucket cannot be reached, or its store does not honour conditions.
    """
    if isinstance(root, S3Path):
        lease.holder(root / LOCK)  # before anything is written: there are stores that make a bucket of a wrong name
        require_conditional_put(client(), root.bucket, root.key)
        with leased(root / LOCK, _said(run, []), wait_seconds, hold or Hold(), _has_ended):
            yield
    else:
        with _file_lock(root, run, wait_seconds):
            _take_token(root, hold or Hold())
            yield


@contextmanager
def _file_lock(root: Path, run: str, wait_seconds: float) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(root / LOCK), root / ".run.json"
    try:
        lock.acquire(timeout=wait_seconds, poll_interval=0.2)
    except Timeout:
        raise LockError(
            f"Another run holds the lake {root}: {_describe(holder)}. Wait for it to finish, then run again, "
            "or let a run wait by itself: LAKEHOUSE_LOCK_WAIT_SECONDS."
        ) from None
    try:
        _await_jvm(holder)
        _note(holder, run, [])
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _take_token(root: Path, hold: Hold) -> None:
    """Give the holder a larger token than any before it had, even where the clock was put back meanwhile."""
    record = root / TOKEN
    with suppress(FileNotFoundError, ValueError):
        hold.token = max(hold.token, int(record.read_text(encoding="ascii")) + lease.FENCES)
    location.put(record, str(hold.token).encode())


def note_jvm(root: Location, run: str) -> None:
    """Put the JVMs that this process started on record, for whoever comes after a crash; a lease needs no such note."""
    if isinstance(root, Path):
        _note(root / ".run.json", run, [[child.pid, child.create_time()] for child in _jvms()])


def _jvms() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    parent = psutil.Process().parent()  # spark-submit's JVM is the parent of the Python process
    return [one for one in [*found, *([parent] if parent else [])] if "java" in one.name()]


def _said(run: str, jvms: list[list[float]]) -> dict[str, object]:
    own = psutil.Process()
    host = {"pid": own.pid, "created": own.create_time(), "host": socket.gethostname(), "machine": _machine()}
    return {"run": run, **host, "since": now(), "jvms": jvms}


def _machine() -> str:
    """What tells this machine, since its last start, and this container's processes from others: host names may be shared."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _has_ended(said: Mapping[str, Any]) -> bool:
    """Whether a holder on this machine was killed; of one elsewhere nobody can tell."""
    return said.get("machine") == _machine() and not _alive(int(said["pid"]), float(said["created"]))


def _note(holder: Path, run: str, jvms: list[list[float]]) -> None:
    location.put(holder, json.dumps(_said(run, jvms)).encode())


def _read(holder: Path) -> dict[str, object]:
    try:
        said = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _describe(holder: Path) -> str:
    said = _read(holder)
    if not said:
        return "its name is not on record"
    return f"run {said['run']}, process {said['pid']} on {said['host']}, since {said['since']}"


def _await_jvm(holder: Path) -> None:
    """Wait for the JVM of a run that did not end by itself."""
    until = time.monotonic() + JVM_SECONDS
    for pid, created in _read(holder).get("jvms", []):  # type: ignore[attr-defined]
        while _alive(int(pid), float(created)):
            if time.monotonic() > until:
                raise LockError(
                    f"The JVM {int(pid)} of a run that was killed is still there and may still write. End it, then run again."
                )
            time.sleep(0.2)


def _alive(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
