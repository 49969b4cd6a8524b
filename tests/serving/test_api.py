"""The API over the parcels' models: what it answers, what it refuses, how it keeps in step with the lake."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from lakehouse.errors import StorageError
from serving.api import lookups
from tests import parcels as shop
from tests.parcels import Place, change_model, parcels
from tests.served import (
    FULL_ROW,
    GOOD,
    HEADERS,
    KEY,
    ROW,
    copy_place,
    make_service,
    open_client,
    predict,
    probabilities,
)

JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is a newer version of the table is looked at each time."""
    monkeypatch.setattr(lookups, "FRESH_SECONDS", 0)


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


@pytest.fixture(scope="module")
def client(trained_parcels: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """For tests that change nothing."""
    with open_client(make_service(copy_place(trained_parcels, tmp_path_factory.mktemp("shared")))) as one:
        yield one


# --- answers ------------------------------------------------------------------------------------------------------------


def test_rows_by_features_are_answered_as_the_champion_says(client: httpx.Client, trained_parcels: Place) -> None:
    rows = [ROW, {**ROW, "distance_km": 3}, {"distance_km": None, "shop": None, "items": None}]
    champion = trained_parcels.champion()
    table = pa.Table.from_pylist(
        rows, pa.schema({"distance_km": pa.float64(), "shop": pa.string(), "items": pa.float64()})
    )
    answer = predict(client, features=rows)

    assert probabilities(answer) == champion.predict(table.to_pandas()).tolist()
    assert probabilities(answer)[0] > 0.9 > 0.1 > probabilities(answer)[1]
    others = [{k: v for k, v in one.items() if k != "probability"} for one in answer["predictions"]]
    assert others == [{"model_version": GOOD, "alias": "champion", "feature_version": None, "unknown": []}] * 3


def test_a_whole_row_of_the_table_will_do_and_an_unknown_category_is_named(client: httpx.Client) -> None:
    answer = predict(client, features=[FULL_ROW, {**ROW, "shop": "the moon"}])
    assert [one["unknown"] for one in answer["predictions"]] == [[], ["shop"]]
    assert probabilities(answer)[:1] == probabilities(predict(client, features=[ROW]))


def test_rows_by_key_are_answered_as_scores_are(client: httpx.Client, trained_parcels: Place) -> None:
    expected = trained_parcels.probabilities("2024-02-08", "2024-02-09")
    with_day = [{"parcel": n, "day": f"2024-02-0{8 + (n - 380) // 10}"} for n in range(380, 400)]
    for keys in (with_day, [{"parcel": n} for n in range(380, 400)], [{"parcel": n} for n in range(380, 400)]):
        answer = predict(client, keys=keys)
        assert probabilities(answer) == expected
        assert {one["feature_version"] for one in answer["predictions"]} == {0}
    assert probabilities(predict(client, keys=[with_day[3], with_day[0], with_day[3]])) == [
        expected[n] for n in (3, 0, 3)
    ]


def test_keys_of_many_days_are_found_with_and_without_their_days(place: Place) -> None:
    expected = place.probabilities("2024-01-01", "2024-02-09")
    days = [str(day) for day in parcels()["day"].to_pylist()]
    with open_client(make_service(place)) as client:
        for _ in range(2):
            answer = predict(client, keys=[{"parcel": n, "day": days[n]} for n in range(0, 400, 5)])
            assert probabilities(answer) == expected[::5]
            assert probabilities(predict(client, keys=[{"parcel": n} for n in range(0, 400, 7)])) == expected[::7]
            some = [{"parcel": n, "day": days[n]} if n % 2 else {"parcel": n} for n in (3, 57, 104, 250, 399)]
            assert probabilities(predict(client, keys=some)) == [expected[one["parcel"]] for one in some]
        wrong = [{"parcel": n, "day": days[n]} for n in range(0, 390, 10)] + [{"parcel": 5, "day": days[399]}]
        answer = client.post("/predict", json={"keys": wrong})
        assert [one["location"] for one in answer.json()["faults"]] == ["keys.39"]


@pytest.mark.parametrize(
    "keys", [[{"parcel": 4000}], [{"parcel": 3}, {"parcel": 4000}], [{"parcel": 4000, "day": "2024-01-01"}]]
)
def test_an_unknown_key_is_named(client: httpx.Client, keys: list[dict[str, Any]]) -> None:
    answer = client.post("/predict", json={"keys": keys})
    assert answer.status_code == 404
    said = answer.json()
    assert said["detail"] == f"gold.parcels version 0 has no row for 1 of the {len(keys)} keys."
    (fault,) = said["faults"]
    assert fault["location"] == f"keys.{len(keys) - 1}"
    assert fault["message"].startswith('There is no row with {"parcel":4000')
    wrong_day = client.post("/predict", json={"keys": [{"parcel": 3, "day": "2024-01-02"}]})
    assert wrong_day.status_code == 404


def test_features_are_those_of_the_newest_version(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client(make_service(place)) as client:
        before = predict(client, keys=[{"parcel": 3}])
        place.write(parcels(seed=1).slice(0, 390))
        after = predict(client, keys=[{"parcel": 3}])
        assert [one["predictions"][0]["feature_version"] for one in (before, after)] == [0, 1]
        assert probabilities(before) != probabilities(after) == place.probabilities("2024-01-01", "2024-01-01")[3:4]
        assert client.post("/predict", json={"keys": [{"parcel": 395}]}).status_code == 404
        monkeypatch.setattr(lookups, "WHOLE_DAY_ROWS", 5)  # a day that is too large to be kept
        place.write(parcels())
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == probabilities(before)
        shutil.rmtree(place.lake / "gold" / "parcels")
        place.write(parcels(seed=1))  # another table in its place, whose versions begin again
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == probabilities(after)


def test_a_table_made_anew_is_noticed_where_its_day_is_kept(place: Place) -> None:
    def made_anew(seed: int, versions: int) -> list[float]:
        shutil.rmtree(place.lake / "gold" / "parcels")
        for _ in range(versions):
            place.write(parcels(seed))
        return place.probabilities("2024-01-01", "2024-01-01")[3:4]

    with open_client(make_service(place)) as client:
        place.write(parcels())
        kept = predict(client, keys=[{"parcel": 3}])
        assert kept["predictions"][0]["feature_version"] == 1
        fewer = made_anew(seed=1, versions=1)
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == fewer != probabilities(kept)
        more = made_anew(seed=2, versions=2)
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == more != fewer
        as_many = made_anew(seed=3, versions=2)
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == as_many != more


def test_kept_days_answer_while_the_store_hangs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    of = make_service(place)
    with open_client(of) as client:
        expected = predict(client, keys=[{"parcel": 3}])
        hangs, goes_on = threading.Event(), threading.Event()

        def hang(*_: Any) -> Any:
            hangs.set()
            assert goes_on.wait(30)
            raise StorageError("no answer")

        monkeypatch.setattr(lookups, "open_features", hang)
        asking = threading.Thread(target=lambda: client.get("/model"))
        asking.start()
        try:
            assert hangs.wait(10)
            answer = predict(client, keys=[{"parcel": 3}])
            assert answer["predictions"] == expected["predictions"]
            assert client.get("/model").json()["feature_version"] == 0
        finally:
            goes_on.set()
            asking.join()
        assert predict(client, keys=[{"parcel": 3}])["predictions"] == expected["predictions"]


def test_a_table_that_is_gone_is_told_by_each_route_that_needs_it(place: Place) -> None:
    with open_client(make_service(place)) as client:
        predict(client, keys=[{"parcel": 3}])
        shutil.rmtree(place.lake / "gold" / "parcels")
        for _ in range(2):
            for answer in (client.get("/model"), client.post("/predict", json={"keys": [{"parcel": 3}]})):
                assert (answer.status_code, answer.json()["detail"]) == (
                    503,
                    "Features cannot be looked up at the moment.",
                )
        assert probabilities(predict(client, features=[ROW]))


def test_a_table_that_cannot_be_read_is_told_without_the_inside(place: Place) -> None:
    with open_client(make_service(place)) as client:
        for file in (place.lake / "gold" / "parcels").glob("*.parquet"):
            file.unlink()
        answer = client.post("/predict", json={"keys": [{"parcel": 3}]})
        assert (answer.status_code, answer.json()["detail"]) == (503, "Features cannot be looked up at the moment.")
        assert probabilities(predict(client, features=[ROW]))


def test_what_is_in_service_is_told(client: httpx.Client) -> None:
    said = client.get("/model").json()
    (version,) = said["serving"]
    assert (version["alias"], version["version"], version["module"]) == ("champion", GOOD, "tests.parcels")
    assert version["input_columns"] == ["distance_km", "shop", "items"]
    assert probabilities(predict(client, features=[version["typical"]])), "what is typical can be sent as it is told"
    assert (said["task"], said["feature_table"], said["feature_version"]) == ("late_parcel", "gold.parcels", 0)
    assert (said["key"], said["time"], said["canary"]) == (["parcel"], "day", 0)


def test_prometheus_is_told(client: httpx.Client) -> None:
    predict(client, features=[ROW] * 3)
    client.get("/nothing/here")
    text = client.get("/metrics").text
    assert 'serving_predictions_total{alias="champion",version="1"}' in text
    assert 'serving_requests_total{path="/predict",status="200"}' in text
    assert 'serving_requests_total{path="other",status="404"}' in text
    assert 'serving_request_seconds_bucket{le="0.001",path="/predict"}' in text
    assert 'serving_model_version{alias="champion"} 1.0' in text


# --- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shown", [None, "", "Bearer", "Bearer wrong", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer \xff"]
)
def test_without_the_key_nothing_but_health_is_told(client: httpx.Client, shown: str | None) -> None:
    headers = {} if shown is None else {"Authorization": shown.encode("latin-1")}
    with httpx.Client(base_url=client.base_url, headers=headers) as stranger:
        assert [stranger.get(path).json()["status"] for path in ("/health", "/ready")] == ["ok", "ready"]
        asked = [stranger.get(path) for path in ("/model", "/metrics", "/openapi.json", "/nothing")]
        for answer in (*asked, stranger.post("/predict", json={"features": [ROW]})):
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert KEY not in answer.text


def features(**changed: Any) -> str:
    return json.dumps({"features": [{**ROW, **changed}]})


WRONG = {
    "nan": (features(distance_km=float("nan")), "features.0.distance_km: Input should be a finite number"),
    "infinity": (features(distance_km=float("-inf")), "features.0.distance_km: Input should be a finite number"),
    "beyond floats": ('{"features": [{"distance_km": 1e999, "shop": "north", "items": 1}]}', "finite number"),
    "digits": (features(distance_km=10**400), "finite number"),
    "text for a number": (features(distance_km="90"), "features.0.distance_km: Input should be a valid number"),
    "truth for a number": (features(items=True), "features.0.items: Input should be a valid number"),
    "number for text": (features(shop=1), "features.0.shop: Input should be a valid string"),
    "list for text": (features(shop=["north"]), "features.0.shop: Input should be a valid string"),
    "part of one": (features(items=1.5), "features.0.items: Input should be a valid integer, got a number with a fractional part"),
    "hardly more than none": (features(items=1e-42), "features.0.items: Input should be a valid integer"),
    "too large": (features(items=2**63), "features.0.items: Input should be less than or equal to"),
    "missing": ('{"features": [{"distance_km": 1, "shop": "north"}]}', "features.0.items: Field required"),
    "of no column": (features(weight=1), "features.0.weight: Extra inputs are not permitted"),
    "the label": (features(late=True), "features.0.late: Extra inputs are not permitted"),
    "no row": ('{"features": []}', "features: List should have at least 1 item"),
    "many rows": (json.dumps({"keys": [{"parcel": n} for n in range(1001)]}), "keys: List should have at most 1000 items"),
    "no key": ('{"keys": [{}]}', "keys.0.parcel: Field required"),
    "null key": ('{"keys": [{"parcel": null}]}', "keys.0.parcel: Input should be a valid number"),
    "text key": ('{"keys": [{"parcel": "3"}]}', "keys.0.parcel: Input should be a valid number"),
    "no day": ('{"keys": [{"parcel": 3, "day": "2024-02-31"}]}', "keys.0.day: Input should be a valid date"),
    "both": (json.dumps({"features": [ROW], "keys": [{"parcel": 3}]}), "Give either `features` or `keys`."),
    "neither": ("{}", "Give either `features` or `keys`."),
    "something else": ('{"rows": []}', "rows: Extra inputs are not permitted"),
    "a list": ("[]", "body: Input should be an object"),
    "nothing": ("", "body: Invalid JSON"),
    "no JSON": ("features=1", "body: Invalid JSON"),
    "no Unicode": (b'{"features": [{"shop": "\xff"}]}', "body: Invalid JSON"),
    "half a character": ('{"features": [{"shop": "\\ud800"}]}', "body: Invalid JSON"),
    "deep": ("[" * 100_000, "body: Invalid JSON: recursion limit exceeded"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_request_is_told_what_is_wrong(client: httpx.Client, body: str | bytes, text: str) -> None:
    answer = client.post("/predict", content=body, headers=JSON)
    assert answer.status_code == 422
    said = answer.json()
    assert said["request_id"] == answer.headers["X-Request-ID"]
    assert text in "\n".join([said["detail"], *(f"{one['at']}: {one['said']}" for one in said["faults"])])


def test_of_many_faults_the_first_are_told(client: httpx.Client) -> None:
    wide = {f"unknown_{n}": 1 for n in range(3)}
    said = client.post("/predict", json={"features": [{**ROW, **wide}] * 1000}).json()
    assert said["detail"] == "The request has 3 faults.", "those of the first row that has any"
    assert {one["location"] for one in said["faults"]} == {f"features.0.{name}" for name in wide}


@pytest.mark.parametrize("row", [{f"unknown_{n}": 1 for n in range(50_000)}, {f"{n}": {} for n in range(8)}])
def test_a_row_of_more_columns_than_there_are_is_refused_as_a_whole(client: httpx.Client, row: dict[str, Any]) -> None:
    for kind in ("features", "keys"):
        said = client.post(
            "/predict", json={kind: [FULL_ROW, row] if kind == "features" else [{"parcel": 1}, row]}
        ).json()
        (fault,) = said["faults"]
        assert fault == {"location": f"{kind}.1", "message": f"There are {len(row)} columns, and the table has 7."}
    many = client.post("/predict", json=row)
    assert (many.status_code, many.json()["detail"]) == (422, "Give either `features` or `keys`.")


def test_a_body_of_another_kind_or_size_is_refused_while_it_comes(client: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/predict", content=features(), headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert client.post(
        "/predict", content=features(), headers={"Content-Type": "application/json; charset=utf-8"}
    ).is_success
    pulled = 0

    def endless() -> Iterator[bytes]:
        nonlocal pulled
        while pulled < 50_000_000:
            pulled += 100_000
            yield b" " * 100_000

    for body in (b" " * 1_200_000, b" " * 5_000_000):
        answer = client.post("/predict", content=body, headers=JSON)
        assert answer.status_code == 413
        assert "1,000,000 bytes" in answer.json()["detail"]
    with suppress(httpx.WriteError, httpx.ReadError):  # the server may hang up before all was sent
        assert client.post("/predict", content=endless(), headers=JSON).status_code == 413
    assert pulled < 50_000_000
    assert client.get("/ready").is_success


def test_a_slow_body_is_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.api.app.BODY_SECONDS", 0.2)

    def slow() -> Iterator[bytes]:
        yield b'{"features'
        time.sleep(1)
        yield b'": []}'

    with open_client(make_service(place)) as client:
        assert client.post("/predict", content=slow(), headers=JSON).status_code == 408


def test_other_paths_and_methods_are_refused_in_the_same_shape(client: httpx.Client) -> None:
    for answer, status in ((client.get("/predict/"), 404), (client.get("/predict"), 405), (client.put("/model"), 405)):
        assert answer.status_code == status
        assert answer.json().keys() == {"request_id", "detail", "faults"}
    assert client.get("/predict").headers["Allow"] == "POST"


def test_a_request_keeps_an_id_of_its_callers(client: httpx.Client) -> None:
    said = client.post("/predict", json={"features": [ROW]}, headers={"X-Request-ID": "order-17.a_b"})
    assert said.json()["request_id"] == said.headers["X-Request-ID"] == "order-17.a_b"
    for strange in ("a b", "x" * 65, "<script>", ""):
        assert client.get("/ready", headers={"X-Request-ID": strange}).headers["X-Request-ID"] != strange


def predicting(answer: Any) -> Any:
    """A module whose model may fail: ``answer`` gets the frame and what the model says."""
    return change_model(predict=lambda fitted, frame: answer(frame, shop.predict(fitted, frame)))


def fails_at_13(frame: Any, said: np.ndarray) -> np.ndarray:
    if (frame["distance_km"] == 13).any():
        raise RuntimeError("secrets of the inside")
    return np.where(frame["distance_km"] == 14, np.nan, said)


def test_what_goes_wrong_inside_is_in_the_log_alone(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with open_client(make_service(place, predicting(fails_at_13))) as client:
        for distance, text in ((13, "secrets of the inside"), (14, "something else than a probability")):
            answer = client.post("/predict", json={"features": [{**ROW, "distance_km": distance}]})
            assert answer.status_code == 500
            said = answer.json()
            assert said["detail"] == "Something went wrong here; the log has it under this request's id."
            assert (said["faults"], "Traceback" in answer.text) == ([], False)
            assert f"{said['request_id']} failed" in caplog.text
            assert text in caplog.text
        assert predict(client, features=[ROW])


def test_what_takes_too_long_is_given_up(place: Place) -> None:
    def slow(frame: Any, said: np.ndarray) -> np.ndarray:
        time.sleep(1.0 if (frame["distance_km"] == 13).any() else 0)
        return said

    with open_client(make_service(place, predicting(slow)), seconds=0.3) as client:
        answer = client.post("/predict", json={"features": [{**ROW, "distance_km": 13}]})
        assert (answer.status_code, answer.json()["detail"]) == (504, "There was no answer within 0.3 seconds.")
        time.sleep(1)
        assert predict(client, features=[ROW])


def test_many_at_once_each_get_their_own(client: httpx.Client) -> None:
    rows = [{**ROW, "distance_km": n / 10} for n in range(1000)]
    expected = probabilities(predict(client, features=rows))
    assert len(set(expected)) > 5
    found: dict[int, list[float]] = {}

    def ask(start: int) -> None:
        with httpx.Client(base_url=client.base_url, headers=HEADERS, timeout=30) as own:
            for n in range(start, 1000, 8):
                found[n] = probabilities(predict(own, features=rows[n : n + 1 + n % 3]))

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {n: expected[n : n + 1 + n % 3] for n in range(1000)}
