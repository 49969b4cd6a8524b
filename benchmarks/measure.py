"""A command as a whole process: wall time and peak memory."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

SAMPLE_SECONDS = 0.2
VERSIONS = ("pyspark", "delta-spark", "deltalake", "polars")
TAIL_LINES = 30


@dataclass(frozen=True)
class Measured:
    """Wall seconds, and the most memory that the process and its children (Spark's JVM) held together."""

    seconds: float
    peak_mib: float


def measure(command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> Measured:
    """Run the command to its end; what it prints goes to ``log``.

    Raises:
        RuntimeError: it failed; the end of its output is told.
    """
    os.sync()  # what was written before is not written during
    log.parent.mkdir(parents=True, exist_ok=True)
    done, peak = Event(), [0.0]
    with log.open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=dict(env), cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        sampler = Thread(target=_sample, args=(process.pid, done, peak))
        sampler.start()
        try:
            code = process.wait()
            seconds = time.perf_counter() - began
        finally:
            done.set()
            sampler.join()
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        raise RuntimeError(f"{' '.join(command)} ended with {code}; the end of its output:\n{tail}")
    return Measured(round(seconds, 2), round(peak[0], 1))


def _sample(pid: int, done: Event, peak: list[float]) -> None:
    try:
        whole = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    while not done.is_set():
        peak[0] = max(peak[0], _resident_mib(whole))
        done.wait(SAMPLE_SECONDS)


def _resident_mib(whole: psutil.Process) -> float:
    held = 0
    try:
        members = [whole, *whole.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in members:
        try:
            held += one.memory_info().rss
        except psutil.Error:  # ended since it was listed
            continue
    return held / (1 << 20)


def machine() -> dict[str, Any]:
    """Where and with what the measurements are made."""
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr.splitlines()
    versions = {"Python": platform.python_version(), "Java": java[0].split('"')[1] if java else "?"}
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30)),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {**versions, **{name: version(name) for name in VERSIONS}},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
