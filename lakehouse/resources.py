"""Files of the example project, which the package brings: Spark properties, and the template of new projects."""

from __future__ import annotations

from pathlib import Path

# The folders of the example project. `setup.py` puts them into the wheel.
EXAMPLE_FOLDERS = ("bronze", "silver", "gold", "models", "flights", "jobs", "conf", "notebooks")
_PACKAGE = Path(__file__).resolve().parent
# The folder that relative paths in the platform's Spark properties start at.
PACKAGES = _PACKAGE.parent


def find_example() -> Path:
    """Return the folder with the example project: a part of the package, or the checkout around it."""
    installed = _PACKAGE / "example"
    return installed if installed.is_dir() else PACKAGES


def find_spark_file(name: str) -> Path:
    """Return a file of the platform's own Spark configuration. It may not exist."""
    return find_example() / "conf" / "spark" / name


def list_spark_files() -> list[str]:
    """Return the names of the platform's files of Spark properties."""
    return sorted(file.name for file in find_spark_file("").glob("*.conf"))
