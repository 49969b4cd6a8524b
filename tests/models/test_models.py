"""The models: features, learning, unknown values, stored files."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from pyspark.sql import SparkSession
from threadpoolctl import threadpool_limits

from gold.flight_features import COLUMNS
from lakehouse.errors import ModelError
from lakehouse.ml.dataset import LabelledRows
from lakehouse.ml.metrics import evaluate
from models import keras_network, network, spark_forest, spark_trees, trees
from models.late_arrival import BASELINE_FEATURES, CATEGORIES, FEATURES
from tests.example.departures import features_of, splits_of
from tests.paths import PROJECT

NETWORK = {"width": 16, "dropout": 0.0, "learning_rate": 0.01, "weight_decay": 0.01, "batch_rows": 32, "epochs": 8}
SMALL: dict[ModuleType, dict[str, Any]] = {
    trees: {"max_iter": 20, "min_samples_leaf": 5},
    network: NETWORK,
    keras_network: NETWORK,
    spark_trees: {"maxIter": 5, "maxDepth": 3},
    spark_forest: {"numTrees": 5, "maxDepth": 3},
}
# Parameters that shorten a fit, whatever the space draws.
SHORT: dict[ModuleType, dict[str, Any]] = {
    trees: {"max_iter": 20},
    network: {"epochs": 1},
    keras_network: {"epochs": 1},
    spark_trees: {"maxIter": 2},
    spark_forest: {"numTrees": 2, "maxDepth": 3},
}
MODELS = pytest.mark.parametrize("model", SMALL, ids=lambda model: model.__name__)


@pytest.fixture(scope="module", autouse=True)
def one_thread(spark: SparkSession) -> Iterator[None]:
    """``spark`` is the session that models with ON_SPARK fit on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledRows, LabelledRows]:
    columns = tuple(dict.fromkeys(name for model in SMALL for name in (*model.FEATURES, *model.BASELINE_FEATURES)))
    return splits_of(features_of(tmp_path_factory.mktemp("lake")), columns)


def fitted(
    model: ModuleType,
    splits: tuple[LabelledRows, LabelledRows],
    features: tuple[str, ...] = (),
    params: dict[str, Any] | None = None,
) -> Any:
    curve: list[tuple[int, dict[str, float]]] = []
    result = model.fit(
        *splits,
        features=features or model.FEATURES,
        params=params or SMALL[model],
        seed=7,
        curve=lambda step, values: curve.append((step, dict(values))),
    )
    assert curve, "a fit reports its learning curve"
    assert all(0 < value["validation_brier"] < 1 for _, value in curve)
    return result


def test_features_are_columns_without_the_outcome() -> None:
    for model in SMALL:
        assert set(model.FEATURES) | set(model.BASELINE_FEATURES) <= COLUMNS.keys()
        assert not {"late", "flight_date", "sched_dep_utc", "cutoff_utc", "flight"} & {*model.FEATURES}
    assert {name for name in BASELINE_FEATURES if name.startswith(("origin_", "leg_", "band_", "dest_"))} == set()
    assert set(CATEGORIES) <= set(FEATURES)


@MODELS
def test_the_same_seed_gives_the_same_model(model: ModuleType, splits: tuple[LabelledRows, LabelledRows]) -> None:
    _, validation = splits
    first, second = fitted(model, splits), fitted(model, splits)
    probability = model.predict(first, validation.frame)
    assert evaluate(validation.label, probability)["roc_auc"] > 0.9
    assert (model.predict(second, validation.frame) == probability).all()
    assert set(model.get_input_columns(first)) == set(model.FEATURES)
    base = fitted(model, splits, model.BASELINE_FEATURES)
    assert set(model.get_input_columns(base)) == set(model.BASELINE_FEATURES)
    assert evaluate(validation.label, model.predict(base, validation.frame))["roc_auc"] < 0.7


@MODELS
@pytest.mark.filterwarnings("error:Fixed parameter")
def test_a_space_draws_valid_parameters(model: ModuleType, splits: tuple[LabelledRows, LabelledRows]) -> None:
    for params in model.CANDIDATES:
        assert model.space(optuna.trial.FixedTrial(dict(params))) == params, "a candidate lies in the space"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    drawn = [model.space(study.ask()) for _ in range(3)]
    assert all(params.keys() == model.CANDIDATES[0].keys() for params in drawn)
    assert drawn[0] != drawn[1]
    assert json.loads(json.dumps(drawn)) == drawn, "a study stores parameters as JSON"
    assert SHORT[model].keys() <= drawn[0].keys()
    result = fitted(model, splits, params=drawn[0] | SHORT[model])
    assert set(model.get_input_columns(result)) == set(model.FEATURES)


@MODELS
def test_unknown_and_missing_values_are_no_error(model: ModuleType, splits: tuple[LabelledRows, LabelledRows]) -> None:
    _, validation = splits
    odd = validation.frame.head(4).copy()
    for row, (name, value) in enumerate(
        [("carrier", "never seen"), ("carrier", None), ("leg_dep_delay_min", None), ("temp_f", np.inf)]
    ):
        odd.loc[row, name] = value
    empty = odd.head(1).assign(**{name: None if odd[name].dtype == object else np.nan for name in model.FEATURES})
    probability = model.predict(fitted(model, splits), pd.concat([odd.head(3), empty]))
    assert ((probability > 0) & (probability < 1)).all()


def members(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a file and, for archives such as those of torch.save, numpy.savez and skops, their members."""
    yield name, content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from members(f"{name}/{member}", archive.read(member))


def is_pickle(content: bytes) -> bool:
    """Return whether the content is a pickle, or a NumPy array of objects, which has one behind its header."""
    stream = io.BytesIO(content)
    if content.startswith(np.lib.format.MAGIC_PREFIX):
        version = np.lib.format.read_magic(stream)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        return bool(header(stream)[2].hasobject)
    names = []
    with suppress(Exception):  # pickles of joblib have arrays between the operations
        names += (operation.name for operation, *_ in pickletools.genops(stream))
    return "STOP" in names or (names[:1] == ["PROTO"] and len(names) > 1)


def pickles(folder: Path) -> list[str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [name for file in files for name, content in members(file.name, file.read_bytes()) if is_pickle(content)]


def test_pickles_are_found_in_every_format(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "torch")
    joblib.dump({"weights": np.zeros(2)}, tmp_path / "joblib", compress=False)
    (tmp_path / "plain").write_bytes(pickle.dumps([1]))
    (tmp_path / "oldest").write_bytes(pickle.dumps([1], protocol=0))
    np.savez(tmp_path / "objects.npz", np.array([None]))
    np.savez(tmp_path / "numbers.npz", np.zeros(2))
    assert sorted(pickles(tmp_path)) == ["joblib", "objects.npz/arr_0.npy", "oldest", "plain", "torch/torch/data.pkl"]


@MODELS
def test_stored_models_have_no_pickle_and_predict_equally(
    model: ModuleType, splits: tuple[LabelledRows, LabelledRows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, validation = splits
    original = fitted(model, splits)
    model.save(original, tmp_path)
    assert pickles(tmp_path) == []

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    with monkeypatch.context() as without:
        for name in ("load", "loads", "Unpickler", "_Unpickler"):
            without.setattr(pickle, name, refuse)
        without.setattr(joblib, "load", refuse)
        assert (
            model.predict(model.load(tmp_path), validation.frame) == model.predict(original, validation.frame)
        ).all()
    for file in tmp_path.rglob("*"):
        file.write_bytes(b"garbage")
    with pytest.raises(Exception, match=r"."):
        model.load(tmp_path)


@MODELS
def test_a_model_needs_only_its_requirements(
    model: ModuleType, splits: tuple[LabelledRows, LabelledRows], tmp_path: Path
) -> None:
    """MLflow serves models without Spark and without the lake."""
    original, few = fitted(model, splits), splits[1].frame.head(20)
    (files := tmp_path / "model").mkdir()
    model.save(original, files)
    few.to_parquet(tmp_path / "rows.parquet")
    code = f"""
import sys
for name in ("pyspark", "delta", "deltalake", "boto3", "mlflow"):
    sys.modules[name] = None
from pathlib import Path
import numpy, pandas
import {model.__name__} as model
numpy.save("predictions.npy", model.predict(model.load(Path("model")), pandas.read_parquet("rows.parquet")))
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    assert np.load(tmp_path / "predictions.npy") == pytest.approx(model.predict(original, few), abs=1e-6)


def test_trees_of_untrusted_types_are_not_stored(
    splits: tuple[LabelledRows, LabelledRows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "TRUSTED_TYPES", ())
    with pytest.raises(ModelError, match="TRUSTED_TYPES does not name: .*TreePredictor"):
        trees.save(fitted(trees, splits), tmp_path)


def test_metrics_of_given_probabilities() -> None:
    metrics = evaluate(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
    assert metrics == pytest.approx({"roc_auc": 0.75, "average_precision": 0.8333333, "brier": 0.158125})
