"""Gradient-boosted trees of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.ml import skops_io
from models._few_rows import MAX_ROWS, cached_few_rows
from models.late_arrival import BASELINE_FEATURES, CATEGORIES, FEATURES, TASK

if TYPE_CHECKING:
    import numpy as np
    import optuna
    import pandas as pd
    from sklearn.pipeline import Pipeline

    from lakehouse.ml.dataset import LabelledRows
    from lakehouse.ml.task import Curve

__all__ = ["BASELINE_FEATURES", "FEATURES", "TASK"]
REQUIREMENTS = ("scikit-learn", "skops", "numpy")
CODE = ("models", "flights")
ON_SPARK = False
FILE = "model.skops"
# The number of trees between two points of the learning curve.
CURVE_STEP = 20
CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {"max_iter": 300, "learning_rate": 0.05, "max_leaf_nodes": 31, "min_samples_leaf": 100, "l2_regularization": 1.0},
    {"max_iter": 300, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 200, "l2_regularization": 1.0},
)


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Draw parameters for `lakehouse tune`."""
    return {
        "max_iter": trial.suggest_int("max_iter", 100, 600, step=CURVE_STEP),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 7, 63, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 20, 1000, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 0.1, 100, log=True),
    }


# The types in a fitted pipeline beside skops's own list of safe types: the trees, and scikit-learn's own check of their
# inputs. A partial is loaded only for functions that are trusted, too.
TRUSTED_TYPES = (
    "functools.partial",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.utils.validation.check_array",
)


def fit(
    train: LabelledRows,
    validation: LabelledRows,
    *,
    features: Sequence[str],
    params: Mapping[str, Any],
    seed: int,
    curve: Curve,
) -> Pipeline:
    """Fit a pipeline: categories to codes, then trees. All rows are in memory at once."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    categories = [name for name in features if name in CATEGORIES]
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=float("nan"), encoded_missing_value=float("nan")
    )
    columns = ColumnTransformer([("codes", codes, categories)], remainder="passthrough")
    trees = HistGradientBoostingClassifier(
        categorical_features=list(range(len(categories))), early_stopping=False, random_state=seed, **params
    )
    pipeline = Pipeline([("columns", columns), ("trees", trees)])
    pipeline.fit(train.frame[list(features)], train.label)
    _report_curve(pipeline, validation, curve)
    return pipeline


def _report_curve(pipeline: Pipeline, validation: LabelledRows, curve: Curve) -> None:
    """Report the Brier score on the validation split after every CURVE_STEP trees."""
    import numpy as np

    columns = pipeline["columns"].transform(validation.frame[list(get_input_columns(pipeline))])
    for trees, probability in enumerate(pipeline["trees"].staged_predict_proba(columns), start=1):
        if trees % CURVE_STEP == 0:
            curve(trees, {"validation_brier": float(np.mean((probability[:, 1] - validation.label) ** 2))})


def predict(fitted: Pipeline, frame: pd.DataFrame) -> np.ndarray:
    """Return the probability that each flight is late."""
    if len(frame) <= MAX_ROWS:
        return cached_few_rows(fitted).predict(frame)
    probability: np.ndarray = fitted.predict_proba(frame[list(get_input_columns(fitted))])[:, 1]
    return probability


def get_input_columns(fitted: Pipeline) -> tuple[str, ...]:
    return tuple(str(name) for name in fitted.feature_names_in_)


def save(fitted: Pipeline, folder: Path) -> None:
    """Save the pipeline with skops.

    Raises:
        ModelError: the pipeline has types that TRUSTED_TYPES does not name.
    """
    skops_io.save(fitted, folder / FILE, TRUSTED_TYPES)


def load(folder: Path) -> Pipeline:
    return skops_io.load(folder / FILE, TRUSTED_TYPES)
