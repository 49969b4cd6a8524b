"""The parcels' model, which writes down where it is loaded and about how many rows it is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from tests import parcels
from tests.parcels import (
    BASELINE_FEATURES,
    CANDIDATES,
    CODE,
    FEATURES,
    ON_SPARK,
    REQUIREMENTS,
    TASK,
    fit,
    input_columns,
)

__all__ = [
    "BASELINE_FEATURES",
    "CANDIDATES",
    "CODE",
    "FEATURES",
    "ON_SPARK",
    "REQUIREMENTS",
    "TASK",
    "fit",
    "input_columns",
]
# It travels with the model's files: Spark's workers do not know what the process of the tests does.
NOTES_PATH_FILE = "where.txt"
notes: Path | None = None


def save(fitted: Pipeline, folder: Path) -> None:
    parcels.save(fitted, folder)
    (folder / NOTES_PATH_FILE).write_text(str(notes))


def load(folder: Path) -> Any:
    fitted = parcels.load(folder)
    fitted.notes = Path((folder / NOTES_PATH_FILE).read_text())
    _note(fitted.notes, "loaded", 1)
    return fitted


def predict(fitted: Any, frame: pd.DataFrame) -> np.ndarray:
    if where := getattr(fitted, "notes", None):  # one that was just fitted has none
        _note(where, "asked", len(frame))
    return parcels.predict(fitted, frame)


def _note(where: Path, event: str, count: int) -> None:
    with where.open("a") as file:
        file.write(f"{os.getpid()} {event} {count}\n")


def read_notes(event: str) -> list[tuple[int, int]]:
    """Process and count of all that was noted by other processes than this one."""
    assert notes
    lines = (line.split() for line in notes.read_text().splitlines())
    return [(int(of), int(count)) for of, said, count in lines if said == event and int(of) != os.getpid()]
