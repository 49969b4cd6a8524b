"""The models: what they learn from, what they make of what they never saw, what is left of them in files."""

from __future__ import annotations

import io
import json
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from pyspark.sql import SparkSession
from threadpoolctl import threadpool_limits

from gold.flight_features import COLUMNS
from lakehouse.errors import ModelError
from lakehouse.features import Rows, evaluate
from lakehouse.settings import PROJECT
from models import keras_network, network, spark_trees, trees
from models.late_arrival import BASELINE_FEATURES, CATEGORIES, FEATURES
from tests.departures import features_of, splits_of

NETWORK = {"width": 16, "dropout": 0.0, "learning_rate": 0.01, "weight_decay": 0.01, "batch_rows": 32, "epochs": 8}
SMALL: dict[ModuleType, dict[str, Any]] = {
    trees: {"max_iter": 20, "min_samples_leaf": 5},
    network: NETWORK,
    keras_network: NETWORK,
    spark_trees: {"maxIter": 5, "maxDepth": 3},
}
# What makes a fit short, whatever its space draws.
SHORT: dict[ModuleType, dict[str, Any]] = {
    trees: {"max_iter": 20},
    network: {"epochs": 1},
    keras_network: {"epochs": 1},
    spark_trees: {"maxIter": 2},
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
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, Rows]:
    columns = tuple(dict.fromkeys(name for model in SMALL for name in (*model.FEATURES, *model.BASELINE_FEATURES)))
    return splits_of(features_of(tmp_path_factory.mktemp("lake")), columns)


def fitted(
    model: ModuleType, splits: tuple[Rows, Rows], features: tuple[str, ...] = (), params: dict[str, Any] | None = None
) -> Any:
    seen: list[tuple[int, dict[str, float]]] = []
    made = model.fit(
        *splits, features=features or model.FEATURES, params=params or SMALL[model], seed=7,
        curve=lambda step, values: seen.append((step, dict(values))),
    )  # fmt: skip
    assert seen, "it tells how it learns"
    assert all(0 < value["choose_brier"] < 1 for _, value in seen)
    return made


def test_features_are_columns_of_the_table_and_tell_nothing_of_the_outcome() -> None:
    for model in SMALL:
        assert set(model.FEATURES) | set(model.BASELINE_FEATURES) <= COLUMNS.keys()
        assert not {"late", "flight_date", "sched_dep_utc", "cutoff_utc", "flight"} & {*model.FEATURES}
    assert {name for name in BASELINE_FEATURES if name.startswith(("origin_", "leg_", "band_", "dest_"))} == set()
    assert set(CATEGORIES) <= set(FEATURES)


@MODELS
def test_it_learns_and_gives_the_same_for_the_same_seed(model: ModuleType, splits: tuple[Rows, Rows]) -> None:
    _, choose = splits
    made, again = fitted(model, splits), fitted(model, splits)
    probability = model.predict(made, choose.frame)
    assert evaluate(choose.label, probability)["roc_auc"] > 0.9
    assert (model.predict(again, choose.frame) == probability).all()
    assert set(model.reads(made)) == set(model.FEATURES)
    base = fitted(model, splits, model.BASELINE_FEATURES)
    assert set(model.reads(base)) == set(model.BASELINE_FEATURES)
    assert evaluate(choose.label, model.predict(base, choose.frame))["roc_auc"] < 0.7


@MODELS
@pytest.mark.filterwarnings("error:Fixed parameter")
def test_what_its_space_draws_is_what_it_is_fitted_with(model: ModuleType, splits: tuple[Rows, Rows]) -> None:
    for params in model.CANDIDATES:
        assert model.space(optuna.trial.FixedTrial(dict(params))) == params, "a candidate lies in the space"
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    drawn = [model.space(study.ask()) for _ in range(3)]
    assert all(one.keys() == model.CANDIDATES[0].keys() for one in drawn)
    assert drawn[0] != drawn[1]
    assert json.loads(json.dumps(drawn)) == drawn, "or a study could not keep it"
    assert SHORT[model].keys() <= drawn[0].keys()
    made = fitted(model, splits, params=drawn[0] | SHORT[model])
    assert set(model.reads(made)) == set(model.FEATURES)


@MODELS
def test_unknown_and_missing_values_are_no_error(model: ModuleType, splits: tuple[Rows, Rows]) -> None:
    _, choose = splits
    odd = choose.frame.head(4).copy()
    for row, (name, value) in enumerate(
        [("carrier", "never seen"), ("carrier", None), ("leg_dep_delay_min", None), ("temp_f", np.inf)]
    ):
        odd.loc[row, name] = value
    nothing = odd.head(1).assign(**{name: None if odd[name].dtype == object else np.nan for name in model.FEATURES})
    probability = model.predict(fitted(model, splits), pd.concat([odd.head(3), nothing]))
    assert ((probability > 0) & (probability < 1)).all()


@MODELS
def test_its_files_hold_no_pickle_and_say_the_same(
    model: ModuleType, splits: tuple[Rows, Rows], tmp_path: Path
) -> None:
    _, choose = splits
    made = fitted(model, splits)
    model.save(made, tmp_path)
    assert (model.predict(model.load(tmp_path), choose.frame) == model.predict(made, choose.frame)).all()
    for file in tmp_path.rglob("*"):
        with pytest.raises(Exception, match=r"."):
            [*pickletools.genops(io.BytesIO(file.read_bytes()))]
    for file in tmp_path.rglob("*"):
        file.write_bytes(b"garbage")
    with pytest.raises(Exception, match=r"."):
        model.load(tmp_path)


@MODELS
def test_it_loads_where_nothing_but_its_requirements_is(model: ModuleType) -> None:
    """Where MLflow serves it there is no Spark, and no lake."""
    missing = "".join(f"sys.modules[{name!r}] = None; " for name in ("pyspark", "deltalake", "boto3", "mlflow"))
    subprocess.run([sys.executable, "-c", f"import sys; {missing}import {model.__name__}"], check=True, cwd=PROJECT)


def test_trees_of_types_that_nobody_looked_at_are_not_stored(
    splits: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "TRUSTED_TYPES", ())
    with pytest.raises(ModelError, match="TRUSTED_TYPES does not name: .*TreePredictor"):
        trees.save(fitted(trees, splits), tmp_path)


def test_scores_of_known_probabilities() -> None:
    found = evaluate(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8]))
    assert found == pytest.approx({"roc_auc": 0.75, "average_precision": 0.8333333, "brier": 0.158125})
