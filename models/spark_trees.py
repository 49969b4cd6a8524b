"""Gradient-boosted trees of Spark's MLlib, for rows that outgrow one machine, evaluated with numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models._spark_nodes import (
    FittedTrees,
    distribute,
    export_trees,
    get_input_columns,
    grow_trees,
    load,
    predict_trees,
    report_curve,
    save,
)
from models.late_arrival import BASELINE_FEATURES, FEATURES, TASK

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from lakehouse.ml.dataset import LabelledRows
    from lakehouse.ml.task import Curve

__all__ = ["BASELINE_FEATURES", "FEATURES", "TASK", "get_input_columns", "load", "save"]
REQUIREMENTS = ("numpy",)
CODE = ("models", "flights")
ON_SPARK = True
CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {"maxIter": 60, "maxDepth": 6, "stepSize": 0.1, "subsamplingRate": 0.5, "minInstancesPerNode": 100},
)


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Draw parameters for `lakehouse tune`."""
    return {
        "maxIter": trial.suggest_int("maxIter", 20, 120, step=20),
        "maxDepth": trial.suggest_int("maxDepth", 3, 8),
        "stepSize": trial.suggest_float("stepSize", 0.02, 0.3, log=True),
        "subsamplingRate": trial.suggest_float("subsamplingRate", 0.3, 1.0),
        "minInstancesPerNode": trial.suggest_int("minInstancesPerNode", 20, 1000, log=True),
    }


def fit(
    train: LabelledRows,
    validation: LabelledRows,
    *,
    features: Sequence[str],
    params: Mapping[str, Any],
    seed: int,
    curve: Curve,
) -> FittedTrees:
    """Grow trees on the process's Spark session. The driver reads only the validation rows, a week at a time.

    Several machines may add up sums in another order, and the last digits of two fits then differ.
    """
    fitted = export_trees(grow_trees(distribute(train), features, lambda bins: estimator(bins, params, seed)), features)
    report_curve(fitted, _logistic, validation, curve)
    return fitted


def estimator(bins: int, params: Mapping[str, Any], seed: int) -> Any:
    from pyspark.ml.classification import GBTClassifier

    return GBTClassifier(featuresCol="vector", labelCol=TASK.label_column, maxBins=bins, seed=seed, **params)


def _logistic(sums: np.ndarray) -> np.ndarray:
    """Convert sums to probabilities as MLlib's classifier does, with trees fitted to labels of -1 and 1."""
    probability: np.ndarray = 1 / (1 + np.exp(-2 * sums))
    return probability


def predict(fitted: FittedTrees, frame: pd.DataFrame) -> np.ndarray:
    """Return the probability that each flight is late."""
    return predict_trees(fitted, _logistic, frame)
