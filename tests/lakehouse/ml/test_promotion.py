"""Promotion to champion: the gate, obstacles, and changes by others meanwhile."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from lakehouse.ml.mlflow_client import CHAMPION
from lakehouse.ml.promotion import compare
from tests.parcels import Place, change_model, parcels
from tests.served import GOOD, WEAK, copy_place, give_alias

MIDDLING = {"CANDIDATES": ({"max_iter": 4},)}
DAYS = np.repeat(np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]"), 50)


@pytest.fixture
def two(trained_parcels: Place, tmp_path: Path) -> Place:
    """Return a place with a good champion and a weak version."""
    return copy_place(trained_parcels, tmp_path)


def test_a_champion_without_its_columns_is_replaced(place: Place) -> None:
    place.train(change_model(FEATURES=("distance_km",)))
    place.write(parcels().drop_columns("distance_km"))
    second = place.train(change_model(FEATURES=("noise",)))
    assert (second.alias, second.reason) == (
        "champion",
        "champion version 1 can score no more: gold.parcels lacks its columns distance_km",
    )


def test_columns_missing_only_in_older_versions_do_not_demote(place: Place) -> None:
    place.write(parcels().drop_columns("noise"))
    place.write(parcels())
    place.train(change_model(FEATURES=("noise",)))
    second = place.train(change_model(FEATURES=("distance_km",)), version=1)
    assert second.alias == "challenger"
    assert "champion version 1 stays, as it cannot be evaluated here: KeyError" in second.reason


def test_trainings_of_one_task_decide_in_turn(two: Place) -> None:
    give_alias(two, CHAMPION, WEAK)
    messages: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with FileLock(two.pending_folder / ".late_parcel.lock"):
            third = pool.submit(two.train, change_model(**MIDDLING), progress=messages.append)
            while "comparing with the champion" not in messages:
                assert not third.done()
                time.sleep(0.1)
            with pytest.raises(TimeoutError):
                third.result(5)
            give_alias(two, CHAMPION, GOOD)
        assert third.result().alias == "challenger"
    assert two.champion().version == GOOD


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
