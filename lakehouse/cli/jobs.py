"""Commands as jobs of spark-submit. A job is a script of a few lines in the project's folder `jobs`."""

from __future__ import annotations

import sys
from pathlib import Path

from lakehouse.cli.main import main
from lakehouse.project import activate, find_root


def run_job(file: str, *layers: str) -> None:
    """Run tables, and exit with 1 if a table failed, with 2 on a user's mistake, with 3 as `run --strict` does.

    Args:
        file: The job's own `__file__`. The search for its project starts there.
        layers: The job's tables, unless its arguments select others. Every table by default.
    """
    _activate_project(file)
    main(["run", *sys.argv[1:]], defaults={"run": {"select": list(layers)}})


def run_command(file: str, name: str) -> None:
    """Run a command with the job's arguments.

    Args:
        file: The job's own `__file__`. The search for its project starts there.
    """
    _activate_project(file)
    main([name, *sys.argv[1:]])


def _activate_project(file: str) -> None:
    folder = Path(file).resolve().parent
    # Python puts the script's folder first, where jobs/bronze.py would be taken for the package bronze.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    activate(find_root(folder))
