"""A training on this machine: its files, and what it says of itself.

It waits in a folder of its own until MLflow has all of it.
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
from lakehouse.ml.task import Model, Splits, Task, columns_of

if TYPE_CHECKING:
    from lakehouse.storage.location import Location

TRAINING_FILE: Final = "training.json"
# What it takes to make a model again, among the files that its run shows.
RECIPE_FILE: Final = "recipe.json"
FITTING_SPLITS: Final = ("train", "validation")


@dataclass(frozen=True)
class TrainResult:
    """What one training made. ``metrics`` and ``baseline`` are those of the validation split, ``rows`` the labelled rows used."""

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
    """What one training made: folders with the model's files, the baseline's, and those to show, and what it ``said``.

    ``said`` holds what a `TrainResult` does and: id; started_at, seconds since 1970; for which lake and tracking server, from what, as
    the model was declared, and by which code it was made; the parameters, metrics, inputs and candidates that MLflow is told.
    """

    folder: Path
    record: Mapping[str, Any]

    def save(self, parent: Path) -> Training:
        """The training in a folder below ``kept``, where it appears whole or not at all."""
        (self.folder / TRAINING_FILE).write_text(json.dumps(self.record, indent=1))
        return Training(self.folder.rename(parent / str(self.record["id"])), self.record)

    def abandon(self) -> Path:
        """Leave it where it does not wait any longer; returns its folder."""
        aside = self.folder.parent / "abandoned"
        aside.mkdir(exist_ok=True)
        return self.folder.rename(aside / self.folder.name)

    def open_rows(self, model: Model, lake: Location) -> tuple[FeatureTable, LabelledRows]:
        """The feature table as it was, and the validation split of the training itself, which need not be the declared one.

        Raises:
            ModelError: what else the model declares is otherwise now, or the version of its table is gone.
        """
        own = self.record["declared"]
        if describe_declaration(model) | {"splits": own["splits"]} != own:
            raise ModelError(f"{self.record['learner']} is declared otherwise since.")
        task = replace(model.TASK, splits=recorded_splits(own, model.TASK))
        features = open_features(task, lake, columns_of(model), self.record["delta_version"])
        if features.table_id != self.record["feature_table_id"]:
            raise ModelError(f"{task.feature_table} was made anew since.")
        return features, features.split("validation", columns_of(model))


def describe_declaration(model: Model) -> dict[str, Any]:
    """What a training depends on, as the model's module declares it."""
    task = model.TASK
    splits = {name: list(getattr(task.splits, name)) for name in FITTING_SPLITS}
    features = {name: list(getattr(model, name)) for name in ("FEATURES", "BASELINE_FEATURES")}
    return {**features, "key": list(task.key), "label": task.label_column, "time": task.time_column, "splits": splits}


def recorded_splits(declaration: Mapping[str, Any], today: Task) -> Splits:
    """The splits of what a model `declared` then, and the test split of today."""
    return Splits(test=today.splits.test, **{name: tuple(declaration["splits"][name]) for name in FITTING_SPLITS})


def find_pending(folder: Path, **said: Any) -> list[Training]:
    """The trainings that MLflow does not have yet and that said so, the oldest first.

    Raises:
        ModelError: a training's file is damaged.
    """
    found = []
    for file in folder.glob(f"*/{TRAINING_FILE}"):
        try:
            found.append(Training(file.parent, json.loads(file.read_text())))
        except ValueError as error:
            raise ModelError(f"{file} is damaged ({error}): move {file.parent} away, or delete it.") from error
    return sorted((one for one in found if matches(one, said)), key=lambda one: one.record["started_at"])


def matches(training: Training, expected: Mapping[str, Any]) -> bool:
    return all(training.record.get(name) == value for name, value in expected.items())
