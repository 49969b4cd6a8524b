"""Server processes: started detached, on record with the time of their creation, stopped with their children."""

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

# How long a server may take to end by itself.
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Launch:
    """How a process is started; ``account`` is whom it runs as, empty for the one who starts it."""

    command: Sequence[str]
    variables: Mapping[str, str]
    account: Mapping[str, Any] = field(default_factory=dict)


def log_of(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def _record(folder: Path, name: str) -> Path:
    return folder / "run" / f"{name}.json"


def start(folder: Path, name: str, launch: Launch) -> None:
    """Start a server that outlives this process."""
    for needed in (log_of(folder, name).parent, _record(folder, name).parent, folder / name):
        needed.mkdir(parents=True, exist_ok=True)
    with log_of(folder, name).open("ab") as log:
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
    said = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
    _record(folder, name).write_text(json.dumps(said), encoding="utf-8")


def alive(folder: Path, name: str) -> psutil.Process | None:
    """The server's process if it runs; another one that got its number since is none."""
    try:
        said = json.loads(_record(folder, name).read_text(encoding="utf-8"))
        process = psutil.Process(said["pid"])
        same = abs(process.create_time() - said["created"]) < 1
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    return process if same and _runs(process) else None


def _runs(process: psutil.Process) -> bool:
    """Whether a process does not just wait for its parent to take note of its end."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def members(folder: Path, name: str) -> list[psutil.Process]:
    """The server's process and what came from it, also where it ended before them."""
    if leader := alive(folder, name):
        return [leader, *leader.children(recursive=True)]
    record = _record(folder, name)
    if not record.exists():
        return []
    pid = json.loads(record.read_text(encoding="utf-8"))["pid"]
    return [one for one in psutil.process_iter() if _left_behind(one, pid, folder / name)]


def _left_behind(process: psutil.Process, session: int, folder: Path) -> bool:
    """Whether a process is of a server's session and at work in its folder: a session's number alone may have come back."""
    try:
        return os.getsid(process.pid) == session and _runs(process) and Path(process.cwd()).is_relative_to(folder)
    except (OSError, psutil.Error):
        return False


def stop(folder: Path, name: str, how: signal.Signals = signal.SIGTERM) -> bool:
    """Ask a server to end, end it and its children where it does not; whether there was something to stop."""
    running = members(folder, name)
    # A server tells its own children; those that it left behind nobody else tells.
    for process in running[:1] if alive(folder, name) else running:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    for process in _left_after(STOP_SECONDS, running):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _left_after(STOP_SECONDS, running)
    _record(folder, name).unlink(missing_ok=True)
    return bool(running)


def _left_after(seconds: float, processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    until = time.monotonic() + seconds
    while (left := [one for one in processes if _runs(one)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
