"""The same data through two lakes, one with a GPU's settings; `benchmarks.compare` says what differs between their tables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import submitted
from lakehouse.settings import PREFIX, PROJECT


def environment(**settings: str) -> dict[str, str]:
    """This process's, but with no other settings than these and where the plugin is."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(PREFIX) or name == f"{PREFIX}GPU_JAR"
    }
    return kept | settings


def command(root: Path, *words: str, gpu: str = "") -> str:
    """Carry out a command on the lake at ``root``; returns what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli", *words], cwd=PROJECT, capture_output=True, text=True, check=False,
        env=environment(LAKEHOUSE_ROOT=str(root), LAKEHOUSE_GPU=gpu),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} on {root} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def through(root: Path, spans: Iterable[tuple[str, str]], gpu: str = "") -> None:
    """Deliver the flights of each span of days and run: the first builds the tables, the others update them.

    What runs with a GPU's settings runs by spark-submit, so that Spark tells its plans.
    """
    for since, until in spans:
        command(root, "land", "--from", since, "--to", until)
        if gpu:
            submitted.run(root, gpu, {})
        else:
            command(root, "run")
