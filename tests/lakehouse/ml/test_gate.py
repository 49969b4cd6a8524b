"""The gate: a better model is better on most days, not on one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lakehouse.ml.promotion import compare

DAYS = np.repeat(np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]"), 50)


def validation_rows(days: np.ndarray = DAYS) -> Any:
    label = np.arange(len(days)) % 2 == 0
    return SimpleNamespace(label=label, days=days, rows=len(days), span=(str(days[0]), str(days[-1])))


def predict(rows: Any, chance: float | np.ndarray) -> np.ndarray:
    """Return the probabilities of a model that gives the right label this chance."""
    return np.where(rows.label, chance, 1 - np.asarray(chance))


def test_a_model_that_is_better_every_day_is_better() -> None:
    rows = validation_rows()
    verdict = compare(rows, predict(rows, 0.8), predict(rows, 0.7))
    assert verdict.is_better
    assert (verdict.new, verdict.old) == pytest.approx((0.04, 0.09))
    assert (verdict.low, verdict.high) == pytest.approx((-0.05, -0.05))
    assert verdict.reason("champion version 3").startswith(
        "Brier score 0.040000 on 500 rows of 2024-01-01 to 2024-01-10 is below 0.090000 of champion version 3"
    )


def test_the_same_model_is_not_better() -> None:
    rows = validation_rows()
    verdict = compare(rows, predict(rows, 0.8), predict(rows, 0.8))
    assert not verdict.is_better
    assert (verdict.low, verdict.high) == (0, 0)


def test_one_lucky_day_is_not_enough() -> None:
    days = np.concatenate([DAYS, np.repeat(DAYS[0], 1000)])
    rows = validation_rows(days)
    lucky = days == DAYS[0]
    verdict = compare(rows, predict(rows, np.where(lucky, 0.9, 0.69)), predict(rows, 0.7))
    assert verdict.new < verdict.old
    assert not verdict.is_better, "worse on nine of ten days"
    assert "is not surely below" in verdict.reason("champion version 1")


def test_a_single_day_decides_nothing() -> None:
    rows = validation_rows(DAYS[:50])
    assert not compare(rows, predict(rows, 0.9), predict(rows, 0.5)).is_better


def test_the_interval_is_the_same_each_time() -> None:
    rows, chance = validation_rows(), np.random.default_rng(1)
    new, old = predict(rows, chance.uniform(0.5, 1, 500)), predict(rows, 0.75)
    assert compare(rows, new, old) == compare(rows, new, old)
