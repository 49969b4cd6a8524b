"""The demo on January: twenty-five days first, then the rest, day by day. Run as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from jobs import example
from lakehouse.cli.main import main
from lakehouse.deltalog.sql import query
from lakehouse.ml.task import Splits
from models.late_arrival import TASK
from tests.paths import PROJECT


def run(root: Path, *command: str) -> str:
    """Run a module in a process of its own on the lake below ``root``; returns what it printed."""
    environment = {**os.environ, "LAKEHOUSE_ROOT": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def run_demo(root: Path) -> str:
    return run(root, "tests.example.january")


def rows(root: Path, sql: str) -> list[dict[str, Any]]:
    return query(root / "lake", sql).to_pylist()


def version(root: Path, table: str) -> int:
    layer, name = table.split(".")
    return DeltaTable(str(root / "lake" / layer / name)).version()


if __name__ == "__main__":
    example.FIRST_DELIVERY_ENDS = date(2013, 1, 25)
    example.SECOND_DELIVERY = (date(2013, 1, 26), date(2013, 1, 31))
    splits = Splits(
        train=("2013-01-01", "2013-01-20"), validation=("2013-01-21", "2013-01-25"), test=("2013-01-26", "2013-01-31")
    )
    object.__setattr__(TASK, "splits", splits)  # every model module holds the same object
    sys.argv[1:] = ["demo"]
    main()
