"""Promotion to champion: obstacles, and changes by others meanwhile."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from lakehouse.ml.mlflow_client import CHAMPION
from tests.parcels import Place, change_model, parcels
from tests.served import GOOD, WEAK, copy_place, give_alias

MIDDLING = {"CANDIDATES": ({"max_iter": 4},)}


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
