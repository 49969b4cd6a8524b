"""A shop's parcels: a table of 400 rows, and this module as the model of late parcels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from lakehouse.ml import skops_io
from lakehouse.ml.dataset import LabelledRows, open_features
from lakehouse.ml.mlflow_client import LoadedModel, open_tracking_client
from lakehouse.ml.registry import Registry
from lakehouse.ml.scoring import EvaluationResult, evaluate_test_split
from lakehouse.ml.scoring import load_by_alias as load_alias
from lakehouse.ml.task import Curve, Model, Splits, Task
from lakehouse.ml.training import train
from lakehouse.ml.training_record import TrainResult

TREES = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
DAYS = 40


TASK = Task(
    name="late_parcel",
    feature_table="gold.parcels",
    predictions_table="gold.parcel_scores",
    quality_table="gold.parcel_quality",
    drift_table="gold.parcel_drift",
    key=("parcel",),
    time_column="day",
    label_column="late",
    splits=Splits(
        train=("2024-01-01", "2024-01-20"), validation=("2024-01-21", "2024-01-30"), test=("2024-01-31", "2024-02-09")
    ),
)
LEARNER = "trees"
FILE = "model.skops"
# Distance separates late parcels; shop and items hardly do.
FEATURES = ("distance_km", "shop", "items")
BASELINE_FEATURES = ("shop",)
CANDIDATES = ({"max_iter": 2}, {"max_iter": 30})
REQUIREMENTS = ("scikit-learn", "skops")
CODE = ("tests",)
ON_SPARK = False


def fit(
    train: LabelledRows,
    validation: LabelledRows,
    *,
    features: tuple[str, ...],
    params: dict[str, Any],
    seed: int,
    curve: Curve,
) -> Pipeline:
    assert train.features.version == validation.features.version
    text = [name for name in features if name == "shop"]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    trees = HistGradientBoostingClassifier(random_state=seed, min_samples_leaf=5, **params)
    pipeline = make_pipeline(make_column_transformer((encoder, text), remainder="passthrough"), trees)
    for step in (1, 2):
        curve(step, {"validation_brier": 1 / step})
    return pipeline.fit(train.frame[list(features)], train.label)


def predict(fitted: Pipeline, frame: pd.DataFrame) -> np.ndarray:
    assert "late" not in frame, "a model that predicts must not be shown the label"
    return fitted.predict_proba(frame[list(fitted.feature_names_in_)])[:, 1]


def get_input_columns(fitted: Pipeline) -> tuple[str, ...]:
    return tuple(fitted.feature_names_in_)


def save(fitted: Pipeline, folder: Path, trusted: tuple[str, ...] = (TREES,)) -> None:
    skops_io.save(fitted, folder / FILE, trusted)


def load(folder: Path, trusted: tuple[str, ...] = (TREES,)) -> Pipeline:
    return skops_io.load(folder / FILE, trusted)


def change_model(trusted: tuple[str, ...] = (TREES,), **changed: Any) -> Any:
    """Return this module as a model, with some attributes changed."""
    names = (name for name in dir(Model) if not name.startswith("_"))
    own = {name: globals()[name] for name in names} | {"__name__": __name__}
    files = {
        "save": lambda fitted, folder: save(fitted, folder, trusted),
        "load": lambda folder: load(folder, trusted),
    }
    return SimpleNamespace(**(own | files | changed))


def parcels(seed: int = 0) -> pa.Table:
    """Return ten parcels a day, late when they go far. Each day's last one is on its way and has no label."""
    random = np.random.default_rng(seed)
    size = DAYS * 10
    distance = random.uniform(0, 100, size)
    late = random.random(size) < 1 / (1 + np.exp((50 - distance) / 3))
    on_its_way = np.arange(size) % 10 == 9
    items = random.integers(1, 5, size)
    return pa.table(
        {
            "parcel": pa.array(np.arange(size)),
            "day": pa.array([date(2024, 1, 1) + timedelta(days=int(i) // 10) for i in range(size)]),
            "distance_km": pa.array(distance),
            "items": pa.array(items, mask=items == 4),
            "shop": pa.array(random.choice(["north", "south"], size)),
            "noise": pa.array(random.random(size)),
            "late": pa.array(late, mask=on_its_way),
        }
    )


@dataclass(frozen=True)
class Place:
    lake: Path
    tracking_uri: str
    artifact_root: str
    experiment: str = "parcels"

    def write(self, rows: pa.Table) -> int:
        """Overwrite the table with these rows, and return its new version."""
        path = self.lake / "gold" / "parcels"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(path, rows, mode="overwrite", schema_mode="overwrite")
        return DeltaTable(path).version()

    def train(self, module: Any, **more: Any) -> TrainResult:
        registry = Registry(self.tracking_uri, self.artifact_root, self.experiment)
        options = {"revision": "abc123", "pending_folder": self.pending_folder, **more}
        return train(LEARNER, {LEARNER: module}, lake=self.lake, registry=registry, **options)

    def champion(self, module: Any = None) -> LoadedModel:
        return load_alias(TASK, {LEARNER: module or change_model()}, tracking_uri=self.tracking_uri)

    def probabilities(self, since: str, until: str) -> list[float]:
        """Return the champion's probabilities of these days, sorted by key."""
        return self.scores(since, until)["probability"].to_pylist()

    def scores(self, since: date | str, until: date | str) -> pa.Table:
        """Return the champion's scores of these days, as rows of the table of predictions."""
        champion, features = self.champion(), open_features(TASK, self.lake, ())
        rows = features.read((str(since), str(until)), [TASK.time_column, *champion.get_input_columns()])
        columns = {"model_name": pa.repeat(TASK.name, rows.num_rows)}
        columns["model_version"] = pa.repeat(pa.scalar(champion.version, pa.int32()), rows.num_rows)
        columns["probability"] = pa.array(champion.predict(features.read_frame(rows)))
        return pa.table({name: rows[name] for name in (*TASK.key, TASK.time_column)} | columns)

    def report(self, module: Any = None) -> EvaluationResult:
        return evaluate_test_split(
            TASK, {LEARNER: module or change_model()}, lake=self.lake, tracking_uri=self.tracking_uri
        )

    @property
    def pending_folder(self) -> Path:
        return self.lake.parent / "trainings"

    def run(self, run_id: str) -> Any:
        with open_tracking_client(self.tracking_uri) as client:
            return client.get_run(run_id)
