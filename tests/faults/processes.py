"""Orders for runs in separate processes, and their results; `tests.faults.runner` carries them out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from pyspark.sql import SparkSession

from tests.paths import PROJECT


@dataclass(frozen=True)
class Order:
    """A run on a lake.

    Attributes:
        root: The lake's folder.
        modules: The modules that declare the lake's tables.
        strike: "kill" or "stop" the process at a commit; empty to let it run.
        when: Strike "before" or "after" the commit.
        passed: Names of the commits that never count.
        skip: Number of other commits to let pass before the strike.
    """

    root: str
    modules: tuple[str, ...]
    run: str = "run"
    strike: str = ""
    when: str = "before"
    passed: tuple[str, ...] = ()
    skip: int = 0
    wait_seconds: float = 60
    full_refresh: bool = False


@dataclass(frozen=True)
class Answer:
    """Exit code of a run (negative: a signal), and the commits that it reached; the last may be unfinished."""

    code: int
    reached: list[str]


@dataclass(frozen=True)
class Runs:
    """The process that forks the runs, and its log."""

    process: subprocess.Popen[str]
    log: Path
    open_pids: set[int] = field(default_factory=set)

    def __call__(self, order: Order) -> Answer:
        return self.wait(self.start(order))

    def start(self, order: Order) -> int:
        """Start a run and return its process id."""
        pid = int(self._ask({"start": asdict(order)}))
        self.open_pids.add(pid)
        return pid

    def wait(self, pid: int) -> Answer:
        answer = Answer(**self._ask({"wait": pid}))
        self.open_pids.discard(pid)
        return answer

    def complete(self, order: Order) -> list[str]:
        """Run the order, check that it succeeds, and return its commits."""
        answer = self(order)
        assert answer.code == 0, self.read_log()
        return answer.reached

    def run_until_stopped(self, order: Order) -> int:
        """Start a run, wait until it has stopped at the commit of the order, and return its process id."""
        pid = self.start(order)
        deadline = time.monotonic() + 120
        while (status := psutil.Process(pid).status()) != psutil.STATUS_STOPPED:
            assert status != psutil.STATUS_ZOMBIE, f"the run ended before it stopped: {self.read_log()}"
            assert time.monotonic() < deadline, self.read_log()
            time.sleep(0.05)
        return pid

    def read_log(self) -> str:
        """Return the end of the log."""
        return self.log.read_text()[-3000:]

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, self.read_log()
        return json.loads(answer)


@contextmanager
def runs_on(spark: SparkSession, folder: Path) -> Iterator[Runs]:
    """Start processes with runs on this session's JVM."""
    gateway = spark.sparkContext._gateway.gateway_parameters  # type: ignore[union-attr]
    gateway_variables = {"PYSPARK_GATEWAY_PORT": str(gateway.port), "PYSPARK_GATEWAY_SECRET": gateway.auth_token}
    with (folder / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.runner"],
            cwd=PROJECT,
            env={**os.environ, **gateway_variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    runs = Runs(process, folder / "runner.log")
    try:
        yield runs
    finally:
        for pid in runs.open_pids:
            psutil.Process(pid).kill()
        process.kill()
        process.communicate()
