"""Small projects in a test's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SOURCES = "from lakehouse import source\nitems = source('raw.items', landing='items', columns=('id', 'day'))\n"


def make_project(folder: Path, files: Mapping[str, str], **settings: Any) -> Path:
    """Create a project with the source raw.items.

    Args:
        files: The text of further files, by path.
        settings: Further settings of conf/base.yml.
    """
    root = folder / "shop"
    base = {"root": "data", "spark": "local.conf", "declarations": ["shop_sources"], **settings}
    defaults = {
        "conf/base.yml": yaml.safe_dump(base, sort_keys=False),
        "conf/local.yml": "",
        "conf/spark/local.conf": "",
    }
    for path, text in {**defaults, "shop_sources.py": SOURCES, **files}.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root
