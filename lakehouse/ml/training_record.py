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
from lakehouse.ml.dataset import Features, Rows, open_features
from lakehouse.ml.promotion import Alias
from lakehouse.ml.task import Model, Splits, Task, columns_of

if TYPE_CHECKING:
    from lakehouse.storage.location import Location

SAID: Final = "training.json"
# What it takes to make a model again, among the files that its run shows.
RECIPE: Final = "recipe.json"
FITTED_ON: Final = ("train", "choose")


@dataclass(frozen=True)
class TrainResult:
    """What one training made. ``metrics`` and ``baseline`` are those of the choose split, ``rows`` the labelled rows used."""

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

    ``said`` holds what a `TrainResult` does and: id; began, seconds since 1970; for which lake and tracking server, from what, as
    the model was declared, and by which code it was made; the parameters, metrics, inputs and candidates that MLflow is told.
    """

    folder: Path
    said: Mapping[str, Any]

    def save(self, kept: Path) -> Training:
        """The training in a folder below ``kept``, where it appears whole or not at all."""
        (self.folder / SAID).write_text(json.dumps(self.said, indent=1))
        return Training(self.folder.rename(kept / str(self.said["id"])), self.said)

    def set_aside(self) -> Path:
        """Leave it where it does not wait any longer; returns its folder."""
        aside = self.folder.parent / "set-aside"
        aside.mkdir(exist_ok=True)
        return self.folder.rename(aside / self.folder.name)

    def rows(self, model: Model, lake: Location) -> tuple[Features, Rows]:
        """The feature table as it was, and the choose split of the training itself, which need not be the declared one.

        Raises:
            ModelError: what else the model declares is otherwise now, or the version of its table is gone.
        """
        own = self.said["declared"]
        if declared(model) | {"splits": own["splits"]} != own:
            raise ModelError(f"{self.said['learner']} is declared otherwise since.")
        task = replace(model.TASK, splits=splits_then(own, model.TASK))
        features = open_features(task, lake, columns_of(model), self.said["delta_version"])
        if features.table_id != self.said["feature_table_id"]:
            raise ModelError(f"{task.feature_table} was made anew since.")
        return features, features.split("choose", columns_of(model))


def declared(model: Model) -> dict[str, Any]:
    """What a training depends on, as the model's module declares it."""
    task = model.TASK
    splits = {name: list(getattr(task.splits, name)) for name in FITTED_ON}
    features = {name: list(getattr(model, name)) for name in ("FEATURES", "BASELINE_FEATURES")}
    return {**features, "key": list(task.key), "label": task.label, "time": task.time, "splits": splits}


def splits_then(then: Mapping[str, Any], today: Task) -> Splits:
    """The splits of what a model `declared` then, and the report split of today."""
    return Splits(report=today.splits.report, **{name: tuple(then["splits"][name]) for name in FITTED_ON})


def waiting(kept: Path, **said: Any) -> list[Training]:
    """The trainings that MLflow does not have yet and that said so, the oldest first.

    Raises:
        ModelError: a training's file is damaged.
    """
    found = []
    for file in kept.glob(f"*/{SAID}"):
        try:
            found.append(Training(file.parent, json.loads(file.read_text())))
        except ValueError as error:
            raise ModelError(f"{file} is damaged ({error}): move {file.parent} away, or delete it.") from error
    return sorted((one for one in found if says(one, said)), key=lambda one: one.said["began"])


def says(training: Training, what: Mapping[str, Any]) -> bool:
    return all(training.said.get(name) == value for name, value in what.items())
