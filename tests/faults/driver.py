"""A run of the orders example in its own process that kills itself at a given point, as a power cut would.

    python tests/faults/driver.py ROOT POINT

POINT is one of the names of POINTS.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.base import Target
from lakehouse.engine.deltars import writer
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.engine.spark.tables import SparkTables
from lakehouse.plan.steps import RunRequest
from lakehouse.runs.scheduler import run_tables
from lakehouse.storage.lock import lock_lake, record_jvms
from tests.sessions import small_session


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_during(module: Any, name: str, table: str, seconds: float) -> None:
    """Kill this process some seconds after a call for the table begins."""
    original = getattr(module, name)

    def patched(*args: Any, **options: Any) -> Any:
        if not any(isinstance(argument, Target) and argument.name == table for argument in args):
            return original(*args, **options)
        threading.Thread(target=lambda: (time.sleep(seconds), die()), daemon=True).start()
        original(*args, **options)
        return time.sleep(2 * seconds)

    setattr(module, name, patched)


POINTS: dict[str, Callable[[], None]] = {
    # The files of the batch are in the table's folder then, and no commit names them.
    "during the first write": lambda: setattr(writer, "commit_once", die),
    "during a merge": lambda: die_during(SparkTables, "merge", "clean.orders", 0.3),
    "during a gold write": lambda: die_during(SparkTables, "_write", "mart.daily_revenue", 0.4),
}


def main(root: Path, point: str) -> None:
    lake = Catalog(graph.load(["tests.orders"]), root)
    POINTS[point]()
    with lock_lake(root, f"killed {point}", wait_seconds=60):
        spark = small_session(compiled=True)
        record_jvms(root, f"killed {point}")
        report = run_tables(
            SparkEngine.wrap_session(spark),
            lake,
            lake.graph.select(),
            RunRequest(),
            Run(f"killed {point}", ""),
            parallel=1,
        )
        spark.stop()
    sys.exit(1 if report.has_failed else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
