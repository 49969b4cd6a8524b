"""Wall time and peak memory of a command, measured as a whole process."""

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
    """Wall seconds of a process, and the peak memory (MiB) of it and its children (Spark's JVM) together."""

    seconds: float
    peak_mib: float


def measure_command(command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> Measured:
    """Run the command to its end, and measure it.

    Args:
        log: file for the output of the command.

    Raises:
        RuntimeError: the command failed; the message ends with the last lines of its output.
    """
    os.sync()  # earlier writes do not slow the command down
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
        raise RuntimeError(f"{' '.join(command)}: ended with {code}. Read the end of its output:\n{tail}")
    return Measured(round(seconds, 2), round(peak[0], 1))


def _sample(pid: int, done: Event, peak: list[float]) -> None:
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    while not done.is_set():
        peak[0] = max(peak[0], _resident_mib(process))
        done.wait(SAMPLE_SECONDS)


def _resident_mib(process: psutil.Process) -> float:
    resident = 0
    try:
        members = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in members:
        try:
            resident += member.memory_info().rss
        except psutil.Error:  # the process ended meanwhile
            continue
    return resident / (1 << 20)


def describe_machine() -> dict[str, Any]:
    """Return the hardware, the system and the versions of the programs."""
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
