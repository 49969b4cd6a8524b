"""The same data through two lakes, one with a GPU's settings; `benchmarks.compare` says what differs between their tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import submitted
from tests.paths import PROJECT


def command(root: Path, *words: str) -> str:
    """Carry out a command on the lake at ``root``; returns what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli.main", *words], cwd=PROJECT, capture_output=True, text=True, check=False,
        env=submitted.environment(LAKEHOUSE_ROOT=str(root), LAKEHOUSE_GPU=""),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} on {root} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def through(root: Path, spans: Iterable[tuple[str, str]], gpu: str = "") -> list[str]:
    """Deliver the flights of each span of days and run: the first builds the tables, the others update them. Returns what each said.

    What runs with a GPU's settings runs by spark-submit, so that Spark tells its plans.
    """
    said = list[str]()
    for since, until in spans:
        command(root, "land", "--from", since, "--to", until)
        if gpu:
            submitted.run(root, gpu, {})
            said.append(root.with_suffix(".log").read_text(errors="replace"))
        else:
            said.append(command(root, "run"))
    return said
