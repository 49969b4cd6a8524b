"""A training on this machine: its files and its record.

A training stays in its own folder until MLflow has all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lakehouse.errors import ModelError
from lakehouse.ml.dataset import FeatureTable, LabelledRows, open_features
from lakehouse.ml.promotion import Alias
from lakehouse.ml.task import Model, Splits, Task, list_read_columns

if TYPE_CHECKING:
    from lakehouse.storage.location import Location

TRAINING_FILE: Final = "training.json"
# The inputs of a training, from which the model can be reproduced; an artifact of its run.
RECIPE_FILE: Final = "recipe.json"
FITTING_SPLITS: Final = ("train", "validation")


@dataclass(frozen=True)
class TrainResult:
    """Result of one training.

    Attributes:
        rows: the labelled rows by split.
        metrics: the model's metrics on the validation split.
        baseline: the baseline's metrics on the validation split.
    """

    model_name: str
    model_version: int
    alias: Alias
    reason: str
    run_id: str
    delta_version: int
    params: Mapping[str, Any]
    rows: Mapping[str, int]
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class Training:
    """The files of one training and its record.

    Attributes:
        folder: has a folder for the model, one for the baseline and one for artifacts.
        record: the fields of a `TrainResult`; id; started_at in seconds since 1970; the lake, the tracking server, the
            inputs, the declaration and the revision of the code; the parameters, metrics, inputs and candidates for
            MLflow.
    """

    folder: Path
    record: Mapping[str, Any]

    def save(self, parent: Path) -> Training:
        """Move the training to a folder below ``parent``, completely or not at all."""
        (self.folder / TRAINING_FILE).write_text(json.dumps(self.record, indent=1))
        return Training(self.folder.rename(parent / str(self.record["id"])), self.record)

    def abandon(self) -> Path:
        """Move the training to the folder of abandoned ones, where it is never registered; return its path."""
        parent = self.folder.parent / "abandoned"
        parent.mkdir(exist_ok=True)
        return self.folder.rename(parent / self.folder.name)

    def open_rows(self, model: Model, lake: Location) -> tuple[FeatureTable, LabelledRows]:
        """Open the training's version of the feature table, and its own validation split.

        The splits may differ from those declared today; nothing else may.

        Raises:
            ModelError: the model's declaration has changed, or the version of its table is gone.
        """
        declaration = self.record["declared"]
        if describe_declaration(model) | {"splits": declaration["splits"]} != declaration:
            raise ModelError(f"{self.record['learner']}: its declaration has changed since.")
        task = replace(model.TASK, splits=read_splits(declaration, model.TASK))
        features = open_features(task, lake, list_read_columns(model), self.record["delta_version"])
        if features.table_id != self.record["feature_table_id"]:
            raise ModelError(f"{task.feature_table} was rebuilt since.")
        return features, features.split("validation", list_read_columns(model))


def describe_declaration(model: Model) -> dict[str, Any]:
    """Return the declaration of a model's module, as far as a training depends on it."""
    task = model.TASK
    splits = {name: list(getattr(task.splits, name)) for name in FITTING_SPLITS}
    features = {name: list(getattr(model, name)) for name in ("FEATURES", "BASELINE_FEATURES")}
    return {**features, "key": list(task.key), "label": task.label_column, "time": task.time_column, "splits": splits}


def read_splits(declaration: Mapping[str, Any], today: Task) -> Splits:
    """Return the splits of a recorded declaration, with today's test split."""
    return Splits(test=today.splits.test, **{name: tuple(declaration["splits"][name]) for name in FITTING_SPLITS})


def find_pending(folder: Path, **expected: Any) -> list[Training]:
    """Find the trainings that MLflow does not have yet, with the expected values in their record, the oldest first.

    Raises:
        ModelError: a training's file is damaged.
    """
    trainings = []
    for file in folder.glob(f"*/{TRAINING_FILE}"):
        try:
            trainings.append(Training(file.parent, json.loads(file.read_text())))
        except ValueError as error:
            raise ModelError(f"{file} is damaged ({error}): move {file.parent} away, or delete it.") from error
    matching = (training for training in trainings if is_match(training, expected))
    return sorted(matching, key=lambda training: training.record["started_at"])


def is_match(training: Training, expected: Mapping[str, Any]) -> bool:
    """Return whether the training's record has all expected values."""
    return all(training.record.get(name) == value for name, value in expected.items())
