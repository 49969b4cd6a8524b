"""The population stability index: by hand, by feature-engine, and for features that move every week."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from math import log
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feature_engine.selection import DropHighPSIFeatures

from lakehouse.ml import psi
from lakehouse.ml.dataset import split_into_weeks
from lakehouse.ml.limits import FeatureDrift, Limits, check_features, check_results
from lakehouse.ml.psi import EMPTY_SHARE, MISSING, Bins, Spread, compute_spreads
from lakehouse.ml.scoring import compute_calibration_error
from lakehouse.ml.task import Splits, Task

LEAST = 0.25
FIRST = date(2024, 1, 1)


class Visits:
    """Rows by day from January 2024 on with one feature, with the interface of `FeatureTable`."""

    def __init__(self, values: Any, a_day: int) -> None:
        days = [FIRST + timedelta(days=n // a_day) for n in range(len(values))]
        self.rows = pa.table({"day": pa.array(days), "feature": values})
        spans = Splits(("", ""), ("", ""), ("", ""))
        self.task = Task("t", "gold.t", "gold.p", "gold.q", "gold.d", ("visit",), "day", "late", spans)

    def read_batches(self, span: tuple[str, str], columns: list[str]) -> Iterator[pa.Table]:
        for week in split_into_weeks(span):
            first, last = (date.fromisoformat(day) for day in week)
            within = [first <= day <= last for day in self.rows["day"].to_pylist()]
            yield self.rows.filter(pa.array(within)).select(list(columns))

    def read_frame(self, rows: pa.Table) -> pd.DataFrame:
        return rows.to_pandas()


def spread_of(training_days: int, values: Any, a_day: int = 10) -> Spread:
    """Return the spread of a feature with ``training_days`` training days first and monitored days after."""
    table: Any = Visits(values, a_day)
    days = len(values) // a_day
    trained = (str(FIRST), str(FIRST + timedelta(days=training_days - 1)))
    monitored = (str(FIRST + timedelta(days=training_days)), str(FIRST + timedelta(days=days - 1)))
    (spread,) = compute_spreads(table, table, ["feature"], (trained, monitored))
    return spread


def all_days(spread: Spread) -> tuple[str, str]:
    return str(spread.monitored_counts.index[0].date()), str(spread.monitored_counts.index[-1].date())


def test_by_hand() -> None:
    # Half and half in training, then 8 of 10 and 2 of 10.
    by_hand = (0.8 - 0.5) * log(0.8 / 0.5) + (0.2 - 0.5) * log(0.2 / 0.5)
    assert by_hand == pytest.approx(0.41589, abs=1e-5)
    for first, second in (("north", "south"), (0.0, 1.0)):
        spread = spread_of(2, [first, second] * 10 + [first] * 8 + [second] * 2)
        drift = spread.measure_drift(all_days(spread), LEAST)
        assert drift == FeatureDrift("feature", pytest.approx(by_hand), LEAST, 0, 0)
        assert drift.has_drifted


def test_an_empty_bin_counts_as_a_small_share() -> None:
    spread = spread_of(2, ["north", "south"] * 10 + ["north"] * 5 + ["west"] * 5)
    by_hand = (EMPTY_SHARE - 0.5) * log(EMPTY_SHARE / 0.5) + (0.5 - EMPTY_SHARE) * log(0.5 / EMPTY_SHARE)
    assert spread.measure_drift(all_days(spread), LEAST).psi == pytest.approx(by_hand)


@pytest.mark.filterwarnings("ignore:Could not infer format")
def test_the_index_equals_feature_engines() -> None:
    chance = np.random.default_rng(5)
    size = 1_000
    numbers = np.r_[chance.normal(0, 1, size), chance.normal(0.6, 1.2, size)]
    numbers[chance.random(2 * size) < 0.1] = np.nan
    texts = np.r_[chance.choice(["a", "b", "c"], size, p=[0.5, 0.3, 0.2]), chance.choice(["a", "b"], size)]
    theirs = DropHighPSIFeatures(split_col="part", cut_off=0.5, missing_values="ignore", variables=["numbers", "texts"])
    part = np.repeat([0.0, 1.0], size)
    theirs.fit(pd.DataFrame({"part": part, "numbers": numbers, "texts": texts}))
    for name, values in {"numbers": numbers, "texts": texts}.items():
        spread = spread_of(10, values, a_day=100)
        ours = spread.measure_drift(all_days(spread), LEAST).psi
        assert ours == pytest.approx(theirs.psi_values_[name], rel=1e-6)
        assert ours > 0.2


def test_drift_of_a_mostly_constant_feature_is_found() -> None:
    rain = [0.0] * 190 + [1.0] * 10 + [0.0] * 50 + [1.0] * 50
    spread = spread_of(20, rain)
    assert spread.measure_drift(all_days(spread), LEAST).has_drifted


def test_missing_values_have_their_own_share() -> None:
    nothing = float("nan")
    spread = spread_of(2, [1.0, 2.0] * 9 + [nothing] * 2 + [1.0, 2.0] * 2 + [nothing] * 6 + [nothing] * 10)
    first, last = all_days(spread)
    assert spread.measure_drift((first, first), LEAST) == FeatureDrift("feature", pytest.approx(0), LEAST, 0.6, 0.1)
    assert spread.measure_drift((last, last), LEAST) == FeatureDrift("feature", None, LEAST, 1, 0.1)
    assert not spread.measure_drift((last, last), LEAST).has_drifted
    daily = spread.compute_daily((first, last), LEAST)
    assert daily["missing_share"].tolist() == [0.6, 1.0]
    assert daily["psi"].tolist() == pytest.approx([0, 0]), "the second day's window includes the first"


def test_a_feature_without_training_values_has_no_index() -> None:
    spread = spread_of(2, [float("nan")] * 20 + [1.0] * 10)
    assert spread.measure_drift(all_days(spread), LEAST) == FeatureDrift("feature", None, LEAST, 0, 1)


def test_movement_as_in_training_is_no_drift() -> None:
    """A feature such as the days to a holiday moves every week, in training as well."""
    weekly = [float(day // 7 % 4) for day in range(70) for _ in range(10)]
    calm = spread_of(56, weekly)
    moved = calm.measure_drift(("2024-02-26", "2024-03-03"), LEAST)
    assert moved.psi == pytest.approx(moved.psi_limit)
    assert moved.psi > 5
    assert not moved.has_drifted
    outside = spread_of(56, weekly[:560] + [9.0] * 140)
    assert outside.measure_drift(("2024-02-26", "2024-03-10"), LEAST).has_drifted


def test_bins_come_from_training() -> None:
    trained = pd.Series([*range(1, 101)], dtype=float)
    numbers = Bins.from_training(trained)
    assert numbers.assign(pd.Series([-5.0, 10.9, 11.0, 50.0, 1e9, None])).tolist() == [0, 0, 1, 4, 9, MISSING]
    texts = Bins.from_training(pd.Series(["a", "b", "a", None]))
    assert texts.assign(pd.Series(["b", "a", "z", None])).tolist() == [1, 0, 2, MISSING]
    assert (len(numbers), len(texts)) == (10, 3)


def test_bins_of_many_rows_come_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(3)
    values = np.r_[chance.normal(0, 1, 4_000), chance.normal(0.5, 1, 2_000)]
    exact, days = spread_of(40, values, a_day=100), ("2024-02-10", "2024-02-29")
    monkeypatch.setattr(psi, "SAMPLED_ROWS", 500)
    table: Any = Visits(values, 100)
    assert 250 < len(psi._sample(table, ["feature"], ("2024-01-01", "2024-02-09"))) <= 500
    sampled = spread_of(40, values, a_day=100)
    assert sampled.training_counts.to_numpy().sum() == 4_000, "all rows are counted"
    assert sampled.measure_drift(days, LEAST).psi == pytest.approx(exact.measure_drift(days, LEAST).psi, rel=0.1)


def test_calibration_is_counted_by_rows() -> None:
    label = np.array([False] * 100 + [True] * 5)
    assert compute_calibration_error(label, np.r_[np.zeros(100), np.full(5, 0.5)]) == pytest.approx(5 * 0.5 / 105)
    assert compute_calibration_error(label, np.full(105, 5 / 105)) == pytest.approx(0)


def test_findings_name_features_and_limits() -> None:
    calm = FeatureDrift("items", 0.1, 0.25, 0.8, 0.7)
    moved = [
        calm,
        FeatureDrift("rain", 0.4, 0.25, 0, 0),
        FeatureDrift("wind", 3.0, 1.5, 0.5, 0.1),
        FeatureDrift("weekday", 5, 6, 0, 0),
    ]
    drift, missing = check_features(Limits(), moved)
    assert drift.message == "2 of 4 features drifted: wind (PSI 3.00, limit 1.50), rain (PSI 0.40, limit 0.25)"
    assert missing.message.endswith(
        "1 of 4 features missing more often than 20% above training: wind (50% of rows, 10% in training)"
    )
    assert check_features(Limits(), [calm]) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"roc_auc": 0.74}, ["roc_auc"]),
        ({"roc_auc": 0.76}, []),
        ({"brier_skill": 0.05}, ["brier_skill"]),
        ({"calibration_error": 0.06}, ["calibration_error"]),
        ({"roc_auc": 0.9, "brier_skill": 0.4}, []),
        (
            {"roc_auc": 0.5, "brier_skill": -0.1, "calibration_error": 0.2},
            ["roc_auc", "brier_skill", "calibration_error"],
        ),
    ],
)
def test_metrics_beyond_limits_are_findings(changed: dict[str, float], expected: list[str]) -> None:
    validation = {"roc_auc": 0.8, "brier_skill": 0.2}
    current = {
        "roc_auc": 0.8,
        "brier_skill": 0.2,
        "calibration_error": 0.01,
        "label_rate": 0.2,
        "mean_probability": 0.2,
    }
    assert [finding.limit for finding in check_results(Limits(), validation, current | changed)] == expected
