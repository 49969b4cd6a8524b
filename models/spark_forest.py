"""A random forest of Spark's MLlib, grown on a GPU with LAKEHOUSE_GPU_TRAINING and evaluated with numpy.

Each tree is fitted to the label as a number, 0 or 1, so a leaf's value is the share of late flights. Reducing the
variance of such a number reduces Gini's impurity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lakehouse.ml.estimators import load_estimator
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
    {"numTrees": 50, "maxDepth": 10, "minInstancesPerNode": 50, "featureSubsetStrategy": "onethird"},
)


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Draw parameters for `lakehouse tune`."""
    return {
        "numTrees": trial.suggest_int("numTrees", 20, 100, step=10),
        "maxDepth": trial.suggest_int("maxDepth", 6, 12),
        "minInstancesPerNode": trial.suggest_int("minInstancesPerNode", 10, 500, log=True),
        "featureSubsetStrategy": trial.suggest_categorical("featureSubsetStrategy", ["onethird", "sqrt"]),
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
    """Grow trees on the process's Spark session or its GPUs. The driver reads only the validation rows."""
    fitted = export_trees(grow_trees(distribute(train), features, lambda bins: estimator(bins, params, seed)), features)
    report_curve(fitted, _means, validation, curve)
    return fitted


def estimator(bins: int, params: Mapping[str, Any], seed: int) -> Any:
    forest = load_estimator("pyspark.ml.regression.RandomForestRegressor")
    return forest(featuresCol="vector", labelCol=TASK.label_column, maxBins=bins, seed=seed, **params)


def _means(sums: np.ndarray) -> np.ndarray:
    means: np.ndarray = sums / np.arange(1, sums.shape[1] + 1)
    return means


def predict(fitted: FittedTrees, frame: pd.DataFrame) -> np.ndarray:
    """Return the probability that each flight is late."""
    return predict_trees(fitted, _means, frame)
