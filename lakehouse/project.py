"""The project of a command or job: the nearest folder with conf/base.yml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lakehouse.errors import SettingsError

VARIABLE = "LAKEHOUSE_PROJECT"
BASE_FILE = Path("conf", "base.yml")


def find_root(start: Path | None = None) -> Path:
    """Return the project's folder: the one that LAKEHOUSE_PROJECT names, else the nearest with conf/base.yml.

    Args:
        start: The first folder to search, before those above it. The working directory by default.

    Raises:
        SettingsError: There is no such folder. The text says where the search began.
    """
    if value := os.environ.get(VARIABLE):
        root = Path(value).expanduser().resolve()
        if not (root / BASE_FILE).is_file():
            raise SettingsError(f"{VARIABLE}={value}: {root} has no {BASE_FILE}. Name the folder of a project.")
        return root
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / BASE_FILE).is_file():
            return folder
    raise SettingsError(
        f"{start}: neither this folder nor one above it has {BASE_FILE}. "
        f"Change to a project's folder, or name it by --project or {VARIABLE}."
    )


def activate(root: Path) -> None:
    """Set the project of this process and of its child processes, and make the project's packages importable.

    The workers of a local Spark are such processes. Those of a cluster need the packages installed.
    """
    os.environ[VARIABLE] = str(root)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(root) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), *paths)))
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
