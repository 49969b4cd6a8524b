"""Server processes: started detached, recorded with their creation time, stopped with their children."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

# Seconds for a server to end after a signal, before it is killed.
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Launch:
    """Command and environment of a process. Attributes: account: user of the process; empty for the current user."""

    command: Sequence[str]
    variables: Mapping[str, str]
    account: Mapping[str, Any] = field(default_factory=dict)


def log_path(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def _record_path(folder: Path, name: str) -> Path:
    return folder / "run" / f"{name}.json"


def start(folder: Path, name: str, launch: Launch) -> None:
    """Start a server that outlives this process."""
    for path in (log_path(folder, name).parent, _record_path(folder, name).parent, folder / name):
        path.mkdir(parents=True, exist_ok=True)
    with log_path(folder, name).open("ab") as log:
        process = subprocess.Popen(
            launch.command,
            env=launch.variables,
            cwd=folder / name,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **launch.account,
        )
    record = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
    _record_path(folder, name).write_text(json.dumps(record), encoding="utf-8")


def find_process(folder: Path, name: str) -> psutil.Process | None:
    """Return the server's process if it runs. A later process with the same number is not returned."""
    try:
        record = json.loads(_record_path(folder, name).read_text(encoding="utf-8"))
        process = psutil.Process(record["pid"])
        is_same = abs(process.create_time() - record["created"]) < 1
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    return process if is_same and _is_running(process) else None


def _is_running(process: psutil.Process) -> bool:
    """Check that a process runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def find_processes(folder: Path, name: str) -> list[psutil.Process]:
    """Return the server's process and its children, also those that outlived it."""
    if leader := find_process(folder, name):
        return [leader, *leader.children(recursive=True)]
    record = _record_path(folder, name)
    if not record.exists():
        return []
    pid = json.loads(record.read_text(encoding="utf-8"))["pid"]
    return [process for process in psutil.process_iter() if _is_orphan(process, pid, folder / name)]


def _is_orphan(process: psutil.Process, session: int, folder: Path) -> bool:
    """Check that a process belongs to a server's session and folder: session numbers are used again."""
    try:
        return os.getsid(process.pid) == session and _is_running(process) and Path(process.cwd()).is_relative_to(folder)
    except (OSError, psutil.Error):
        return False


def stop(folder: Path, name: str, how: signal.Signals = signal.SIGTERM) -> bool:
    """Signal a server to end, and kill it and its children if they do not.

    Returns:
        True if a process was running.
    """
    running = find_processes(folder, name)
    # A running server passes the signal on to its children. Orphans get the signal directly.
    for process in running[:1] if find_process(folder, name) else running:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    for process in _wait_for_end(STOP_SECONDS, running):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_for_end(STOP_SECONDS, running)
    _record_path(folder, name).unlink(missing_ok=True)
    return bool(running)


def _wait_for_end(seconds: float, processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Wait for the processes to end, and return those that still run."""
    until = time.monotonic() + seconds
    while (running := [process for process in processes if _is_running(process)]) and time.monotonic() < until:
        time.sleep(0.05)
    return running


def is_free(port: int) -> bool:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
