"""Run a command of the command line as a job of spark-submit."""

from __future__ import annotations

import sys
from pathlib import Path

from lakehouse.cli.main import main
from lakehouse.project import activate, find_root

# spark-submit puts the script's folder first, where jobs/bronze.py would be taken for the package bronze.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
activate(find_root(Path(__file__).parent))


def run_job(*layers: str) -> None:
    """Run tables, and exit with 1 if a table failed, with 2 on a user's mistake, with 3 as `run --strict` does.

    Args:
        layers: The job's tables, unless its arguments select others. Every table by default.
    """
    main(["run", *sys.argv[1:]], defaults={"run": {"select": list(layers)}})


def run_command(name: str) -> None:
    """Run a command with the job's arguments."""
    main([name, *sys.argv[1:]])
