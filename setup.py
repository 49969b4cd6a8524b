"""Build of the package: the example project is copied into the wheel, where `lakehouse init` finds it."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FOLDERS = runpy.run_path(str(ROOT / "lakehouse" / "resources.py"))["EXAMPLE_FOLDERS"]


class BuildWithExample(build_py):  # type: ignore[misc]
    """Build the package, and copy the example's folders into it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "lakehouse", "example")
        shutil.rmtree(target, ignore_errors=True)
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithExample})
