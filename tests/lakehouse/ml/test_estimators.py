"""The class of an estimator's name."""

from __future__ import annotations

import pytest

from lakehouse.ml import estimators
from lakehouse.ml.estimators import load_estimator, replace_estimator

FOREST = "pyspark.ml.regression.RandomForestRegressor"


def test_an_estimator_is_the_class_of_that_name() -> None:
    assert load_estimator(FOREST).__module__ == "pyspark.ml.regression"


def test_a_replacement_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimators, "_REPLACEMENTS", {})
    replace_estimator(FOREST, "collections.Counter")
    assert load_estimator(FOREST).__name__ == "Counter"
