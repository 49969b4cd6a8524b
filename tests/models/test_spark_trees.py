"""MLlib's trees as plain data: predictions equal Spark's, and invalid trees are rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.ml.functions import vector_to_array
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from lakehouse import settings
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.errors import ModelError
from lakehouse.ml import pipeline
from lakehouse.ml.dataset import LabelledRows, as_frame
from lakehouse.ml.registry import Registry
from lakehouse.ml.training import train
from lakehouse.runs.context import create_run
from models import _spark_nodes, spark_forest, spark_trees
from models.late_arrival import CATEGORIES, FEATURES, TASK
from tests.example.departures import features_of, splits_of
from tests.parcels import Place
from tests.paths import PROJECT

TREE = """\
DecisionTreeRegressionModel: uid=dtr_1, depth=2, numNodes=5, numFeatures=2
  If (feature 0 in {0.0,2.0})
   If (feature 1 <= 1.0E-4)
    Predict: -0.5
   Else (feature 1 > 1.0E-4)
    Predict: 0.25
  Else (feature 0 not in {0.0,2.0})
   Predict: 0.75
"""


def described(*trees: str, weights: tuple[float, ...] = (1.0,)) -> Any:
    """Return the parts of a fitted pipeline that `export_trees` reads."""
    indexer = SimpleNamespace(getInputCols=lambda: ["carrier"], labelsArray=[("AA", "UA")])
    parsed = [SimpleNamespace(toDebugString=text, numNodes=text.count("Predict") * 2 - 1) for text in trees]
    return SimpleNamespace(stages=[indexer, None, SimpleNamespace(trees=parsed, treeWeights=list(weights))])


@pytest.fixture
def fitted() -> _spark_nodes.FittedTrees:
    return _spark_nodes.export_trees(described(TREE, TREE, weights=(1.0, 0.1)), ("carrier", "temp_f"))


def test_rows_split_by_category_and_number(fitted: _spark_nodes.FittedTrees) -> None:
    rows = pd.DataFrame(
        [("AA", 1e-4), ("AA", 2e-4), ("AA", np.nan), ("AA", np.inf), ("UA", 0), ("XX", 1), (None, -1)],
        columns=["carrier", "temp_f"],
    )
    values = np.array([-0.5, 0.25, -0.5, -0.5, 0.75, 0.25, -0.5])
    assert spark_trees.predict(fitted, rows) == pytest.approx(1 / (1 + np.exp(-2 * values * 1.1)), abs=1e-15)
    assert spark_trees.predict(fitted, rows.iloc[:0]).shape == (0,)
    assert spark_trees.get_input_columns(fitted) == ("carrier", "temp_f")


def test_numeric_splits_of_codes_become_sets() -> None:
    """Spark RAPIDS ML describes its trees so."""
    by_number = TREE.replace("If (feature 0 in {0.0,2.0})", "If (feature 0 <= 0.5)").replace(
        "Else (feature 0 not in {0.0,2.0})", "Else (feature 0 > 0.5)"
    )
    fitted = _spark_nodes.export_trees(described(by_number), ("carrier", "temp_f"))
    assert fitted.description["trees"][0][0] == {"feature": 0, "categories": [0], "right": 4}
    rows = pd.DataFrame({"carrier": ["AA", "UA", None], "temp_f": [0.0, 0.0, 0.0]})
    assert spark_forest.predict(fitted, rows).tolist() == [-0.5, 0.75, 0.75]


def test_chunks_do_not_change_predictions(fitted: _spark_nodes.FittedTrees) -> None:
    chance = np.random.default_rng(0)
    size = 2 * _spark_nodes.CHUNK_ROWS + 3
    rows = pd.DataFrame({"carrier": chance.choice(["AA", "UA", "XX"], size), "temp_f": chance.normal(size=size)})
    whole = spark_trees.predict(fitted, rows)
    parts = [spark_trees.predict(fitted, rows[start : start + 1000]) for start in range(0, size, 1000)]
    assert (np.concatenate(parts) == whole).all()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Predict: -0.5", "Prediction: -0.5"),
        ("If (feature 0 in {0.0,2.0})", "If (feature 0 in [0.0,2.0])"),
        ("Else (feature 1 > 1.0E-4)", "Else (feature 1 > 1.0E-3)"),
        ("  Else (feature 0 not in {0.0,2.0})\n   Predict: 0.75\n", ""),
        ("   Predict: 0.75\n", ""),
        ("   Predict: 0.75\n", "   Predict: 0.75\n  Predict: 0.75\n"),
        (TREE.partition("\n")[2], ""),
    ],
)
def test_unknown_descriptions_are_rejected(old: str, new: str) -> None:
    assert old in TREE
    with pytest.raises(ModelError, match="Spark describes a tree"):
        _spark_nodes.export_trees(described(TREE.replace(old, new)), ("carrier", "temp_f"))


def changed(path: list[Any], value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed(["trees", 0, 0, "right"], 0),
        changed(["trees", 0, 0, "right"], 1),
        changed(["trees", 0, 0, "right"], 5),
        changed(["trees", 0, 0, "feature"], 1),
        changed(["trees", 0, 0, "feature"], -1),
        changed(["trees", 0, 0, "categories"], [3]),
        changed(["trees", 0, 1, "feature"], 2),
        changed(["trees", 0, 1, "threshold"], float("nan")),
        changed(["trees", 0, 2, "value"], "0.5"),
        changed(["trees", 0, 2, "why"], 1),
        changed(["trees", 0], []),
        changed(["weights"], [1.0]),
        changed(["weights"], [1.0, float("inf")]),
        changed(["labels", "carrier"], ["AA", "AA"]),
        changed(["labels", "tailnum"], ["N1"]),
        changed(["features"], ["carrier"]),
    ],
)
def test_invalid_files_are_rejected(
    fitted: _spark_nodes.FittedTrees, change: Callable[[Any], None], tmp_path: Path
) -> None:
    spark_trees.save(fitted, tmp_path)
    content = json.loads((tmp_path / _spark_nodes.FILE).read_text())
    change(content)
    (tmp_path / _spark_nodes.FILE).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="The stored trees are not as they were exported"):
        spark_trees.load(tmp_path)


@pytest.fixture
def splits(tmp_path: Path) -> tuple[LabelledRows, LabelledRows]:
    return splits_of(features_of(tmp_path), FEATURES)


def odd(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Return columns with every third value missing or unknown."""
    strange = {True: ["never seen", None, ""], False: [None, np.nan, np.inf, -np.inf, 1e12]}
    columns = {}
    for index, name in enumerate(FEATURES):
        values = frame[name].astype(object).where(frame[name].notna(), None).tolist()
        others = strange[name in CATEGORIES]
        for row in range(index % 3, len(values), 3):
            values[row] = others[row % len(others)]
        columns[name] = values
    return columns


@pytest.mark.parametrize(
    ("model", "params", "probability"),
    [
        (
            spark_trees,
            {"maxIter": 8, "maxDepth": 4, "subsamplingRate": 0.7, "stepSize": 0.3},
            lambda: vector_to_array("probability")[1],
        ),
        (
            spark_forest,
            {"numTrees": 8, "maxDepth": 4, "featureSubsetStrategy": "onethird"},
            lambda: F.col("prediction"),
        ),
    ],
)
def test_numpy_predicts_as_spark(
    spark: SparkSession,
    splits: tuple[LabelledRows, LabelledRows],
    model: ModuleType,
    params: dict[str, Any],
    probability: Callable[[], Column],
) -> None:
    train, validation = splits
    grown = _spark_nodes.grow_trees(train.read_on_spark(), FEATURES, lambda bins: model.estimator(bins, params, 3))
    fitted = _spark_nodes.export_trees(grown, FEATURES)
    assert any("categories" in node for tree in fitted.description["trees"] for node in tree)
    columns = odd(validation.frame)
    kinds = {name: pa.string() if name in CATEGORIES else pa.float64() for name in FEATURES}
    table = pa.table({name: pa.array(columns[name], kinds[name]) for name in FEATURES})
    numbered = table.append_column("row", pa.array(range(len(table))))
    rows = grown.transform(_spark_nodes.fill_missing(spark.createDataFrame(numbered), FEATURES))
    by_row = rows.select("row", probability().alias("p")).toArrow().sort_by("row")
    by_spark, by_numpy = by_row["p"].to_numpy(), model.predict(fitted, as_frame(table))
    assert len(by_numpy) == validation.rows
    assert np.ptp(by_spark) > 0.3
    assert np.abs(by_numpy - by_spark).max() < 1e-9


def test_spark_trees_are_registered_and_score(
    spark: SparkSession, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_trees, "CANDIDATES", ({"maxIter": 3, "maxDepth": 2},))
    features_of(place.lake)
    models, registry = {"spark_trees": spark_trees}, Registry(place.tracking_uri, place.artifact_root, "flights")
    with threadpool_limits(1):
        trained = train(
            "spark_trees",
            models,
            lake=place.lake,
            registry=registry,
            revision="abc",
            pending_folder=place.pending_folder,
        )
    assert trained.metrics["brier"] < trained.baseline["brier"]
    configured = settings.load(root=str(place.lake.parent), models={"spark_trees": "models.spark_trees"})
    days = (date(2013, 11, 1), date(2013, 11, 7))
    done = pipeline.score_on(SparkEngine.wrap_session(spark), configured, TASK, *days, create_run(PROJECT))
    assert (done.rows, done.written) == (280, 280)
    assert pipeline.score_on(SparkEngine.wrap_session(spark), configured, TASK, *days, create_run(PROJECT)).written == 0
