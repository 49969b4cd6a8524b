"""The parcels' trees as a module that a worker in another process can import; too many rounds make a fit fail."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from sklearn.pipeline import Pipeline

from lakehouse.ml import skops_io
from lakehouse.ml.dataset import LabelledRows
from lakehouse.ml.task import Curve
from tests import parcels
from tests.parcels import FILE, TASK, get_input_columns, load, predict

__all__ = ["TASK", "get_input_columns", "load", "predict"]
FEATURES = ("distance_km", "shop", "items")
BASELINE_FEATURES = ("shop",)
CANDIDATES: tuple[Mapping[str, Any], ...] = ({"max_iter": 2},)
REQUIREMENTS = ("scikit-learn", "skops")
CODE = ("tests",)
ON_SPARK = False
TOO_MANY = 12


def space(trial: optuna.Trial) -> dict[str, Any]:
    return {"max_iter": trial.suggest_int("max_iter", 1, TOO_MANY), "max_depth": 3}


def fit(
    train: LabelledRows,
    validation: LabelledRows,
    *,
    features: tuple[str, ...],
    params: dict[str, Any],
    seed: int,
    curve: Curve,
) -> Pipeline:
    time.sleep(float(os.environ.get("SLOW_FIT", "0")))
    if params["max_iter"] > TOO_MANY:
        raise ValueError(f"{params['max_iter']} rounds are too many")
    return parcels.fit(train, validation, features=features, params=params, seed=seed, curve=curve)


def save(fitted: Pipeline, folder: Path) -> None:
    skops_io.save(fitted, folder / FILE, (parcels.TREES,))
