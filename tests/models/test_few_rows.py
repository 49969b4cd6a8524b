"""The trees' own way with a few rows says what scikit-learn says."""

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
def test_it_says_what_scikit_learn_says_to_the_last_bit(tmp_path: Path, features: tuple[str, ...]) -> None:
    with threadpool_limits(1):
        train, choose = splits_of(features_of(tmp_path), features)
        fitted = trees.fit(train, choose, features=features, params=PARAMS, seed=7, curve=lambda step, values: None)
        odd = spoiled(choose.frame[list(features)])
        expected = fitted.predict_proba(odd)[:, 1]
        assert len(np.unique(expected)) > 20
        assert (cached_few_rows(fitted).predict(odd) == expected).all()
        for start in (0, 1, 70):
            one, some = odd.iloc[start : start + 1], odd.iloc[start : start + MAX_ROWS]
            assert trees.predict(fitted, one) == expected[start]
            assert (trees.predict(fitted, some) == expected[start : start + MAX_ROWS]).all()


def spoiled(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with values missing, never seen and infinite in places."""
    chance = np.random.default_rng(3)
    frame = frame.copy()
    for name in frame:
        text = name in CATEGORIES
        for value, share in ((None if text else np.nan, 0.2), ("never seen" if text else np.inf, 0.1)):
            frame.loc[chance.random(len(frame)) < share, name] = value
    return frame
