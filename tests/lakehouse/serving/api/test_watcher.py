"""Tests of the versions in service: they follow the aliases in the registry."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.serving.api import lookups
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


def test_the_version_with_the_alias_answers(place: Place) -> None:
    service = make_service(place)
    with open_client(service) as client:
        assert predict(client, features=[FULL_ROW])["predictions"][0]["model_version"] == GOOD
        give_alias(place, "champion", WEAK)
        assert predict(client, features=[FULL_ROW])["predictions"][0]["model_version"] == GOOD
        service.watcher.refresh()
        assert predict(client, features=[FULL_ROW])["predictions"][0]["model_version"] == WEAK
        refused = client.post("/predict", json={"features": [ROW]}).json()
        assert [fault["location"] for fault in refused["faults"]] == ["features.0.noise"], "it has another input column"
        assert client.get("/model").json()["serving"][0]["version"] == WEAK


def test_a_broken_version_leaves_the_current_one(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    def failures() -> float:
        (line,) = (
            line
            for line in client.get("/metrics").text.splitlines()
            if line.startswith('serving_model_refresh_failures_total{alias="champion"}')
        )
        return float(line.split()[1])

    def fail_on_noise(fitted: Any, frame: Any) -> np.ndarray:
        if "noise" in frame:
            raise RuntimeError("no")
        return shop.predict(fitted, frame)

    service = make_service(place, change_model(predict=fail_on_noise))
    with open_client(service) as client:
        service.watcher._models = {}
        give_alias(place, "champion", WEAK)
        service.watcher.refresh()
        before = failures()
        assert "version 1 stays in service: late_parcel version 2 was made by 'trees', which `models`" in caplog.text
        service.watcher._models = {"trees": change_model(predict=fail_on_noise)}
        service.watcher.refresh()
        assert "version 1 stays in service: late_parcel version 2 cannot predict (RuntimeError: no)" in caplog.text
        give_alias(place, "champion", None)
        service.watcher.refresh()
        assert "version 1 stays in service: late_parcel has no champion." in caplog.text
        (place.lake.parent / "mlflow.db").unlink()
        service.watcher.refresh()
        assert "mlflow.db: the file does not exist." in caplog.text
        assert failures() == before + 3
        assert not (place.lake.parent / "mlflow.db").exists()
        assert predict(client, features=[ROW])["predictions"][0]["model_version"] == GOOD


def test_a_rebuilt_registry_is_noticed(place: Place) -> None:
    service = make_service(place)
    with open_client(service) as client:
        with open_tracking_client(place.tracking_uri) as registry:
            registry.delete_registered_model(shop.TASK.name)
        retrained = place.train(change_model(FEATURES=("noise",)))
        assert retrained.model_version == GOOD
        service.watcher.refresh()
        (version,) = client.get("/model").json()["serving"]
        assert (version["run_id"], version["input_columns"]) == (retrained.run_id, ["noise"])


def test_a_new_column_of_the_table_is_accepted(place: Place) -> None:
    service = make_service(place)
    with open_client(service) as client:
        row = {**FULL_ROW, "weight_kg": 2.5}
        assert client.post("/predict", json={"features": [row]}).status_code == 422
        place.write(parcels().append_column("weight_kg", pa.array([2.5] * 400)))
        time.sleep(lookups.FRESH_SECONDS)
        service.watcher.refresh()
        assert probabilities(predict(client, features=[row])) == probabilities(predict(client, features=[FULL_ROW]))


def test_the_challenger_gets_its_share_of_requests(place: Place) -> None:
    service = make_service(place, canary=0.3)
    with open_client(service) as client:

        def versions(tries: int) -> list[int]:
            responses = [
                client.post("/predict", json={"features": [FULL_ROW, FULL_ROW]}, headers={"X-Request-ID": f"r{n}"})
                for n in range(tries)
            ]
            answers = [response.json()["predictions"] for response in responses]
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
        service.watcher.refresh()
        assert set(versions(20)) == {GOOD}
        give_alias(place, "challenger", WEAK)
        service.watcher.refresh()
        assert set(versions(20)) == {GOOD, WEAK}


def test_a_broken_challenger_does_not_prevent_the_start(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    def fail_on_noise(fitted: Any, frame: Any) -> Any:
        assert "noise" not in frame
        return shop.predict(fitted, frame)

    with open_client(make_service(place, change_model(predict=fail_on_noise), canary=1)) as client:
        assert predict(client, features=[ROW])["predictions"][0]["alias"] == "champion"
    assert "late_parcel challenger: not loaded, it gets no requests" in caplog.text


def test_a_champion_with_missing_input_columns_is_refused(place: Place) -> None:
    place.write(parcels().drop_columns("distance_km"))
    with pytest.raises(ModelError, match="trained on columns that gold.parcels version 1 does not have: distance_km"):
        make_service(place)
    place.write(parcels().drop_columns("items").append_column("items", pa.array([[1]] * 400)))
    with pytest.raises(ModelError, match=r"gold.parcels has columns without a JSON form: items \(array<bigint>\)"):
        make_service(place)
