"""Model of the parcels that notes the process of each load, and the rows of each prediction."""

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
    get_input_columns,
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
    "get_input_columns",
]
# A file of the model with the path of the notes. Spark's workers do not share the variables of the tests' process.
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
    if path := getattr(fitted, "notes", None):  # a model that was not loaded has none
        _note(path, "predicted", len(frame))
    return parcels.predict(fitted, frame)


def _note(path: Path, event: str, count: int) -> None:
    with path.open("a") as file:
        file.write(f"{os.getpid()} {event} {count}\n")


def read_notes(event: str) -> list[tuple[int, int]]:
    """Return the process and count of each note about an event, without those of this process."""
    assert notes
    lines = (line.split() for line in notes.read_text().splitlines())
    return [
        (int(process), int(count)) for process, noted, count in lines if noted == event and int(process) != os.getpid()
    ]
