"""Fit a model to some weeks of synthetic flights, and print its metrics on the next week.

    python -m tests.example.gpu.trained MODEL

This is a process of its own, because RAPIDS must be installed before anything that trains is imported.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lakehouse.api import load_settings
from lakehouse.gpu.training import accelerate
from lakehouse.ml.estimators import load_estimator

PARAMS: dict[str, dict[str, Any]] = {
    "trees": {"max_iter": 20, "min_samples_leaf": 5},
    "network": {
        "width": 16,
        "dropout": 0.1,
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "batch_rows": 32,
        "epochs": 5,
    },
    # If splits choose among a third of the columns, and one column tells most, another seed alone makes 0.0066.
    "spark_forest": {"numTrees": 100, "maxDepth": 6, "featureSubsetStrategy": "all"},
}
# Not a model of the project: scikit-learn's forest, which cuML replaces.
FOREST = "sklearn_forest"


def main(name: str) -> None:
    settings = load_settings()
    accelerate(settings)
    from lakehouse.engine.spark.session import spark_session
    from lakehouse.ml.dataset import LabelledRows
    from lakehouse.ml.metrics import evaluate
    from models.late_arrival import FEATURES, TASK
    from tests.example.departures import features_of, some_flights

    with tempfile.TemporaryDirectory() as folder:
        features = features_of(Path(folder), some_flights(days=49, a_day=200))
        columns = (*TASK.key, TASK.time_column, *FEATURES, "tailnum")
        train = LabelledRows(features, ("2013-10-18", "2013-11-28"), columns)
        choose = LabelledRows(features, ("2013-11-29", "2013-12-05"), columns)
        if name == FOREST:
            probability, device = _fit_forest(train, choose)
        else:
            model: Any = importlib.import_module(f"models.{name}")
            with spark_session(settings) if model.ON_SPARK else nullcontext():
                fitted = model.fit(
                    train, choose, features=model.FEATURES, params=PARAMS[name], seed=7, curve=lambda *_: None
                )
                device = _find_device(name, fitted)
            (saved := Path(folder, "model")).mkdir()
            model.save(fitted, saved)
            probability = model.predict(model.load(saved), choose.frame)
        sys.stdout.write("\n" + json.dumps({"device": device, "metrics": evaluate(choose.label, probability)}))


def _fit_forest(train: Any, choose: Any) -> tuple[Any, str]:
    from sklearn.ensemble import RandomForestClassifier

    from models.late_arrival import CATEGORIES, FEATURES

    numbers = [column for column in FEATURES if column not in CATEGORIES]
    inputs, unseen = (rows.frame[numbers].astype(float).fillna(-1e3) for rows in (train, choose))
    forest = RandomForestClassifier(200, max_depth=8, max_features=0.5, random_state=0).fit(inputs, train.label)
    return forest.predict_proba(unseen)[:, 1], "gpu" if getattr(forest, "_gpu", None) is not None else "cpu"


def _find_device(name: str, fitted: Any) -> str:
    """Return which device fitted the model, as far as it shows."""
    if name == "network":
        return "gpu" if next(iter(fitted.layers.parameters())).is_cuda else "cpu"
    if name == "spark_forest":
        forest = load_estimator("pyspark.ml.regression.RandomForestRegressor")
        return "gpu" if forest.__module__ == "lakehouse.gpu.forest" else "cpu"
    return "cpu"


if __name__ == "__main__":
    main(sys.argv[1])
