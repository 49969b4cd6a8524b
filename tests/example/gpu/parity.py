"""The same data through two lakes, one with a GPU's settings; `benchmarks.compare` compares their tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import submitted
from tests.paths import PROJECT


def command(root: Path, *words: str) -> str:
    """Run a command on the lake at ``root``, and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli.main", *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        env=submitted.environment(LAKEHOUSE_ROOT=str(root), LAKEHOUSE_GPU=""),
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} on {root} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def through(root: Path, spans: Iterable[tuple[str, str]], gpu: str = "") -> list[str]:
    """Deliver the flights of each span of days, run, and return the output of each run.

    The first run builds the tables, the others update them. Runs with a GPU's settings use spark-submit: the output
    then contains Spark's plans.
    """
    outputs = list[str]()
    for since, until in spans:
        command(root, "land", "--from", since, "--to", until)
        if gpu:
            submitted.run(root, gpu, {})
            outputs.append(root.with_suffix(".log").read_text(errors="replace"))
        else:
            outputs.append(command(root, "run"))
    return outputs
