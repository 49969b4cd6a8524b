"""Which versions answer: those that have the aliases in the registry, as far as they can be had."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import tracking_client
from serving.api import lookups
from tests import parcels as shop
from tests.parcels import Place, change_model, parcels
from tests.served import (
    FULL_ROW,
    GOOD,
    ROW,
    WEAK,
    copy_place,
    give_alias,
    make_service,
    open_client,
    predict,
    probabilities,
)


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


def test_the_version_that_has_the_alias_answers(place: Place) -> None:
    of = make_service(place)
    with open_client(of) as client:
        assert predict(client, features=[FULL_ROW])["predictions"][0]["model_version"] == GOOD
        give_alias(place, "champion", WEAK)
        assert predict(client, features=[FULL_ROW])["predictions"][0]["model_version"] == GOOD
        of.watcher.refresh()
        assert predict(client, features=[FULL_ROW])["predictions"][0]["model_version"] == WEAK
        refused = client.post("/predict", json={"features": [ROW]}).json()
        assert [one["location"] for one in refused["faults"]] == ["features.0.noise"], "it reads another column"
        assert client.get("/model").json()["serving"][0]["version"] == WEAK


def test_a_version_that_cannot_serve_leaves_the_old_one(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    def failures() -> float:
        (line,) = (
            one
            for one in client.get("/metrics").text.splitlines()
            if one.startswith('serving_model_refresh_failures_total{alias="champion"}')
        )
        return float(line.split()[1])

    def good_alone(fitted: Any, frame: Any) -> np.ndarray:
        if "noise" in frame:
            raise RuntimeError("no")
        return shop.predict(fitted, frame)

    of = make_service(place, change_model(predict=good_alone))
    with open_client(of) as client:
        of.watcher._models = {}
        give_alias(place, "champion", WEAK)
        of.watcher.refresh()
        before = failures()
        assert "version 1 serves on: late_parcel version 2 was made by 'trees', which `models`" in caplog.text
        of.watcher._models = {"trees": change_model(predict=good_alone)}
        of.watcher.refresh()
        assert "version 1 serves on: late_parcel version 2 cannot predict (RuntimeError: no)" in caplog.text
        give_alias(place, "champion", None)
        of.watcher.refresh()
        assert "version 1 serves on: late_parcel has no champion any more." in caplog.text
        (place.lake.parent / "mlflow.db").unlink()
        of.watcher.refresh()
        assert "mlflow.db is gone." in caplog.text
        assert failures() == before + 3
        assert not (place.lake.parent / "mlflow.db").exists()
        assert predict(client, features=[ROW])["predictions"][0]["model_version"] == GOOD


def test_another_model_of_the_same_number_is_another(place: Place) -> None:
    of = make_service(place)
    with open_client(of) as client:
        with tracking_client(place.tracking_uri) as registry:
            registry.delete_registered_model(shop.TASK.name)
        made_anew = place.train(change_model(FEATURES=("noise",)))
        assert made_anew.model_version == GOOD
        of.watcher.refresh()
        (version,) = client.get("/model").json()["serving"]
        assert (version["run_id"], version["input_columns"]) == (made_anew.run_id, ["noise"])


def test_a_column_that_the_table_gains_may_be_sent(place: Place) -> None:
    of = make_service(place)
    with open_client(of) as client:
        row = {**FULL_ROW, "weight_kg": 2.5}
        assert client.post("/predict", json={"features": [row]}).status_code == 422
        place.write(parcels().append_column("weight_kg", pa.array([2.5] * 400)))
        time.sleep(lookups.FRESH_SECONDS)
        of.watcher.refresh()
        assert probabilities(predict(client, features=[row])) == probabilities(predict(client, features=[FULL_ROW]))


def test_the_challenger_gets_its_share_and_a_request_its_version(place: Place) -> None:
    of = make_service(place, canary=0.3)
    with open_client(of) as client:

        def versions(tries: int) -> list[int]:
            asked = [
                client.post("/predict", json={"features": [FULL_ROW, FULL_ROW]}, headers={"X-Request-ID": f"r{n}"})
                for n in range(tries)
            ]
            answers = [one.json()["predictions"] for one in asked]
            assert all(first["model_version"] == second["model_version"] for first, second in answers)
            assert {(first["alias"], first["model_version"]) for first, _ in answers} <= {
                ("champion", 1),
                ("challenger", 2),
            }
            return [first["model_version"] for first, _ in answers]

        first = versions(300)
        assert 60 < first.count(WEAK) < 120
        assert versions(300) == first
        assert client.get("/model").json()["canary"] == 0.3
        give_alias(place, "challenger", None)
        of.watcher.refresh()
        assert set(versions(20)) == {GOOD}
        give_alias(place, "challenger", WEAK)
        of.watcher.refresh()
        assert set(versions(20)) == {GOOD, WEAK}


def test_a_challenger_that_cannot_serve_is_no_reason_not_to_start(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_on_noise(fitted: Any, frame: Any) -> Any:
        assert "noise" not in frame
        return shop.predict(fitted, frame)

    with open_client(make_service(place, change_model(predict=fails_on_noise), canary=1)) as client:
        assert predict(client, features=[ROW])["predictions"][0]["alias"] == "champion"
    assert "challenger of late_parcel is not loaded, it gets no requests" in caplog.text


def test_a_champion_that_reads_what_the_table_lacks_is_refused(place: Place) -> None:
    place.write(parcels().drop_columns("distance_km"))
    with pytest.raises(ModelError, match="trained on columns that gold.parcels version 1 does not have: distance_km"):
        make_service(place)
    place.write(parcels().drop_columns("items").append_column("items", pa.array([[1]] * 400)))
    with pytest.raises(ModelError, match=r"no JSON stands for items \(array<bigint>\) of gold.parcels"):
        make_service(place)
