"""Fit a model to some weeks of invented flights by the settings, and print its metrics on the following week.

`python -m tests.example.gpu.trained MODEL` is a separate process: RAPIDS must load before the libraries that train.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lakehouse.gpu import training
from lakehouse.settings import load

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
    # With splits on a third of the columns, another seed alone changes the metric by 0.0066.
    "spark_forest": {"numTrees": 100, "maxDepth": 6, "featureSubsetStrategy": "all"},
}
# Not a model of the project: scikit-learn's forest, which cuML supports.
FOREST = "sklearn_forest"


def main(name: str) -> None:
    settings = load()
    training.accelerate(settings)
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
            probability, by = _forest(train, choose)
        else:
            model: Any = importlib.import_module(f"models.{name}")
            with spark_session(settings) if model.ON_SPARK else nullcontext():
                fitted = model.fit(
                    train, choose, features=model.FEATURES, params=PARAMS[name], seed=7, curve=lambda *_: None
                )
                by = _fitted_by(name, fitted)
            (saved := Path(folder, "model")).mkdir()
            model.save(fitted, saved)
            probability = model.predict(model.load(saved), choose.frame)
        sys.stdout.write("\n" + json.dumps({"by": by, "metrics": evaluate(choose.label, probability)}))


def _forest(train: Any, choose: Any) -> tuple[Any, str]:
    from sklearn.ensemble import RandomForestClassifier

    from models.late_arrival import CATEGORIES, FEATURES

    numbers = [column for column in FEATURES if column not in CATEGORIES]
    train_numbers, test_numbers = (rows.frame[numbers].astype(float).fillna(-1e3) for rows in (train, choose))
    forest = RandomForestClassifier(200, max_depth=8, max_features=0.5, random_state=0).fit(train_numbers, train.label)
    return forest.predict_proba(test_numbers)[:, 1], "gpu" if getattr(forest, "_gpu", None) is not None else "cpu"


def _fitted_by(name: str, fitted: Any) -> str:
    """Return the device that fitted the model, as far as it is visible from outside."""
    if name == "network":
        return "gpu" if next(iter(fitted.layers.parameters())).is_cuda else "cpu"
    if name == "spark_forest":
        return "gpu" if training.random_forest().__module__ == "lakehouse.gpu.forest" else "cpu"
    return "cpu"


if __name__ == "__main__":
    main(sys.argv[1])
