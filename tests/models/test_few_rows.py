"""Predictions for a few rows equal scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from models import trees
from models._few_rows import MAX_ROWS, cached_few_rows
from models.late_arrival import CATEGORIES, FEATURES
from tests.example.departures import features_of, splits_of

NUMBERS = tuple(name for name in FEATURES if name not in CATEGORIES)
PARAMS = {"max_iter": 40, "min_samples_leaf": 5}


@pytest.mark.parametrize("features", [FEATURES, CATEGORIES, NUMBERS], ids=["both", "categories", "numbers"])
def test_predictions_equal_scikit_learns_to_the_last_bit(tmp_path: Path, features: tuple[str, ...]) -> None:
    with threadpool_limits(1):
        train, validation = splits_of(features_of(tmp_path), features)
        fitted = trees.fit(train, validation, features=features, params=PARAMS, seed=7, curve=lambda step, values: None)
        odd = spoil(validation.frame[list(features)])
        expected = fitted.predict_proba(odd)[:, 1]
        assert len(np.unique(expected)) > 20
        assert (cached_few_rows(fitted).predict(odd) == expected).all()
        for start in (0, 1, 70):
            single, several = odd.iloc[start : start + 1], odd.iloc[start : start + MAX_ROWS]
            assert trees.predict(fitted, single) == expected[start]
            assert (trees.predict(fitted, several) == expected[start : start + MAX_ROWS]).all()


def spoil(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with some missing, unknown and infinite values."""
    chance = np.random.default_rng(3)
    frame = frame.copy()
    for name in frame:
        text = name in CATEGORIES
        for value, share in ((None if text else np.nan, 0.2), ("never seen" if text else np.inf, 0.1)):
            frame.loc[chance.random(len(frame)) < share, name] = value
    return frame
