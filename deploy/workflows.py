"""Check of GitHub's workflows by actionlint, a Go program; part of `make check`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deploy.env import PROJECT
from deploy.programs import find
from lakehouse.errors import StackError


def check() -> int:
    """Run actionlint on the project's workflows.

    Returns:
        The exit status of actionlint. Without the program it is 0 on a developer's machine, and 1 in CI.
    """
    try:
        actionlint = find("actionlint", Path())
    except StackError as error:
        print(f"Workflows: not checked. {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    return subprocess.run([actionlint], cwd=PROJECT, check=False).returncode


if __name__ == "__main__":
    sys.exit(check())
