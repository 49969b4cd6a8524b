"""A shop's parcels: a table of 400 rows, and a model module that says which of them come late."""

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
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from lakehouse.registering import Registry, TrainResult
from lakehouse.tracking import tracking
from lakehouse.training import train

TREES = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
DAYS = 40


@dataclass(frozen=True)
class Splits:
    train: tuple[str, str] = ("2024-01-01", "2024-01-20")
    choose: tuple[str, str] = ("2024-01-21", "2024-01-30")
    report: tuple[str, str] = ("2024-01-31", "2024-02-09")


def fit(frame: pd.DataFrame, *, features: tuple[str, ...], params: dict[str, Any], seed: int) -> Pipeline:
    text = [name for name in features if name == "shop"]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    trees = HistGradientBoostingClassifier(random_state=seed, min_samples_leaf=5, **params)
    pipeline = make_pipeline(make_column_transformer((encoder, text), remainder="passthrough"), trees)
    return pipeline.fit(frame[list(features)], frame["late"])


def predict(model: Pipeline, frame: pd.DataFrame) -> np.ndarray:
    assert "late" not in frame, "a model that predicts must not be shown the label"
    return model.predict_proba(frame[list(model.feature_names_in_)])[:, 1]


def evaluate(label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    return {
        "roc_auc": float(roc_auc_score(label, probability)),
        "average_precision": float(average_precision_score(label, probability)),
        "brier": float(brier_score_loss(label, probability)),
    }


def model(**changed: Any) -> Any:
    """A model module that uses what tells late parcels apart (distance) and what hardly does (shop, items)."""
    return SimpleNamespace(
        **{
            "NAME": "late_parcel",
            "FEATURE_TABLE": "gold.parcels",
            "PREDICTIONS": "gold.parcel_scores",
            "QUALITY": "gold.parcel_quality",
            "FEATURES": ("distance_km", "shop", "items"),
            "BASELINE_FEATURES": ("shop",),
            "LABEL": "late",
            "KEY": ("parcel",),
            "TIME": "day",
            "SPLITS": Splits(),
            "CANDIDATES": ({"max_iter": 2}, {"max_iter": 30}),
            "TRUSTED_TYPES": (TREES,),
            "fit": fit,
            "predict": predict,
            "evaluate": evaluate,
        }
        | changed
    )


def parcels(seed: int = 0) -> pa.Table:
    """Ten parcels a day, late when they go far; each day's last is still on its way, so that it has no label."""
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
        """The version that the table has after it was overwritten with these rows, in any order of files."""
        path = self.lake / "gold" / "parcels"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(path, rows, mode="overwrite", schema_mode="overwrite")
        return DeltaTable(path).version()

    def train(self, module: Any, **more: Any) -> TrainResult:
        registry = Registry(self.tracking_uri, self.artifact_root, self.experiment)
        told = {"revision": "abc123", "kept": self.kept, **more}
        return train(module, lake=self.lake, registry=registry, **told)

    @property
    def kept(self) -> Path:
        return self.lake.parent / "trainings"

    def run(self, run_id: str) -> Any:
        with tracking(self.tracking_uri) as client:
            return client.get_run(run_id)
