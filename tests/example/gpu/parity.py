"""Run the same data through a lake, with a GPU's settings or without; `benchmarks.compare` compares two lakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import submitted
from tests.paths import PROJECT


def run_command(root: Path, *words: str) -> str:
    """Run a command on the lake at the root, without a GPU, and return its output.

    Raises:
        RuntimeError: The command failed.
    """
    process = subprocess.run(
        [sys.executable, "-m", "lakehouse.cli.main", *words],
        cwd=PROJECT,
        env=submitted.environment(LAKEHOUSE_ROOT=str(root), LAKEHOUSE_GPU=""),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        output = process.stdout + process.stderr
        raise RuntimeError(f"{' '.join(words)} on {root} ended with {process.returncode}:\n{output}")
    return process.stdout


def run_spans(root: Path, spans: Iterable[tuple[str, str]], gpu: str = "") -> list[str]:
    """Deliver the flights of each span of days and run: the first run builds the tables, the others update them.

    Args:
        root: The lake's root.
        spans: First and last day of each span.
        gpu: LAKEHOUSE_GPU. With it each run is by spark-submit, so that Spark logs its plans.

    Returns:
        The output of each run.
    """
    outputs = list[str]()
    for first, last in spans:
        run_command(root, "land", "--from", first, "--to", last)
        if gpu:
            submitted.run(root, gpu, {})
            outputs.append(root.with_suffix(".log").read_text(errors="replace"))
        else:
            outputs.append(run_command(root, "run"))
    return outputs
