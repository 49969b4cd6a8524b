"""The model: what it learns from, what it makes of what it never saw, how it is judged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import skops.io

from gold.flight_features import COLUMNS
from models import late_arrival
from models.late_arrival import BASELINE_FEATURES, CATEGORIES, FEATURES, evaluate, fit, predict

SMALL = {"max_iter": 20, "min_samples_leaf": 5}


def some_flights(rows: int = 400, seed: int = 1) -> pd.DataFrame:
    """Flights that are late where their aircraft's last leg left late."""
    chance = np.random.default_rng(seed)
    numbers = [name for name in dict.fromkeys((*FEATURES, *BASELINE_FEATURES)) if name not in CATEGORIES]
    frame = pd.DataFrame({name: chance.normal(size=rows) for name in numbers})
    for name in CATEGORIES:
        frame[name] = chance.choice(["a", "b", "c"], rows)
    frame["late"] = frame["leg_dep_delay_min"] > 0.5
    return frame


def test_features_are_columns_of_the_table_and_tell_nothing_of_the_outcome() -> None:
    assert set(FEATURES) | set(BASELINE_FEATURES) <= COLUMNS.keys()
    assert not {"late", "flight_date", "sched_dep_utc", "cutoff_utc", "flight"} & {*FEATURES, *BASELINE_FEATURES}
    assert {name for name in BASELINE_FEATURES if name.startswith(("origin_", "leg_", "band_", "dest_"))} == set()


def test_it_learns_and_gives_the_same_for_the_same_seed() -> None:
    frame = some_flights()
    model = fit(frame, params=SMALL)
    assert evaluate(frame["late"], predict(model, frame))["roc_auc"] > 0.95
    assert (predict(fit(frame, params=SMALL), frame) == predict(model, frame)).all()
    schedule_only = fit(frame, features=BASELINE_FEATURES, params=SMALL)
    assert list(schedule_only.feature_names_in_) == list(BASELINE_FEATURES)
    fresh = some_flights(seed=2)
    assert evaluate(fresh["late"], predict(schedule_only, fresh))["roc_auc"] < 0.7


def test_unknown_and_missing_values_are_no_error() -> None:
    model = fit(some_flights(), params=SMALL)
    odd = some_flights(3)
    odd.loc[0, "carrier"] = "never seen"
    odd.loc[1, "carrier"] = None
    odd.loc[2, "leg_dep_delay_min"] = None
    assert ((predict(model, odd) > 0) & (predict(model, odd) < 1)).all()


def test_what_it_fitted_is_stored_with_the_trusted_types_alone() -> None:
    frame = some_flights()
    model = fit(frame, params=SMALL)
    stored = skops.io.dumps(model)
    assert set(skops.io.get_untrusted_types(data=stored)) <= set(late_arrival.TRUSTED_TYPES)
    loaded = skops.io.loads(stored, trusted=list(late_arrival.TRUSTED_TYPES))
    assert (predict(loaded, frame) == predict(model, frame)).all()


def test_scores_of_known_probabilities() -> None:
    found = evaluate([False, False, True, True], [0.1, 0.4, 0.35, 0.8])
    assert found == pytest.approx({"roc_auc": 0.75, "average_precision": 0.8333333, "brier": 0.158125})
