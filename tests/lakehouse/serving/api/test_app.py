"""Tests of the API over the parcels' models: answers, refusals and changes of the feature table."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from lakehouse.errors import StorageError
from lakehouse.serving.api import lookups
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
    """Check for a newer version of the table at each request."""
    monkeypatch.setattr(lookups, "FRESH_SECONDS", 0)


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


@pytest.fixture(scope="module")
def client(trained_parcels: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client for tests that change nothing."""
    with open_client(make_service(copy_place(trained_parcels, tmp_path_factory.mktemp("shared")))) as client:
        yield client


# --- answers ---------------------------------------------------------------------------------------------------------


def test_rows_by_features_get_the_champions_probabilities(client: httpx.Client, trained_parcels: Place) -> None:
    rows = [ROW, {**ROW, "distance_km": 3}, {"distance_km": None, "shop": None, "items": None}]
    champion = trained_parcels.champion()
    table = pa.Table.from_pylist(
        rows, pa.schema({"distance_km": pa.float64(), "shop": pa.string(), "items": pa.float64()})
    )
    answer = predict(client, features=rows)

    assert probabilities(answer) == champion.predict(table.to_pandas()).tolist()
    assert probabilities(answer)[0] > 0.9 > 0.1 > probabilities(answer)[1]
    other_fields = [{k: v for k, v in row.items() if k != "probability"} for row in answer["predictions"]]
    assert other_fields == [{"model_version": GOOD, "alias": "champion", "feature_version": None, "unknown": []}] * 3


def test_unused_columns_are_accepted_and_unknown_categories_named(client: httpx.Client) -> None:
    answer = predict(client, features=[FULL_ROW, {**ROW, "shop": "the moon"}])
    assert [row["unknown"] for row in answer["predictions"]] == [[], ["shop"]]
    assert probabilities(answer)[:1] == probabilities(predict(client, features=[ROW]))


def test_rows_by_key_get_the_probabilities_of_scores(client: httpx.Client, trained_parcels: Place) -> None:
    expected = trained_parcels.probabilities("2024-02-08", "2024-02-09")
    with_day = [{"parcel": n, "day": f"2024-02-0{8 + (n - 380) // 10}"} for n in range(380, 400)]
    for keys in (with_day, [{"parcel": n} for n in range(380, 400)], [{"parcel": n} for n in range(380, 400)]):
        answer = predict(client, keys=keys)
        assert probabilities(answer) == expected
        assert {row["feature_version"] for row in answer["predictions"]} == {0}
    assert probabilities(predict(client, keys=[with_day[3], with_day[0], with_day[3]])) == [
        expected[n] for n in (3, 0, 3)
    ]


def test_keys_of_many_days_need_no_day(place: Place) -> None:
    expected = place.probabilities("2024-01-01", "2024-02-09")
    days = [str(day) for day in parcels()["day"].to_pylist()]
    with open_client(make_service(place)) as client:
        for _ in range(2):
            answer = predict(client, keys=[{"parcel": n, "day": days[n]} for n in range(0, 400, 5)])
            assert probabilities(answer) == expected[::5]
            assert probabilities(predict(client, keys=[{"parcel": n} for n in range(0, 400, 7)])) == expected[::7]
            mixed = [{"parcel": n, "day": days[n]} if n % 2 else {"parcel": n} for n in (3, 57, 104, 250, 399)]
            assert probabilities(predict(client, keys=mixed)) == [expected[key["parcel"]] for key in mixed]
        wrong = [{"parcel": n, "day": days[n]} for n in range(0, 390, 10)] + [{"parcel": 5, "day": days[399]}]
        answer = client.post("/predict", json={"keys": wrong})
        assert [fault["location"] for fault in answer.json()["faults"]] == ["keys.39"]


@pytest.mark.parametrize(
    "keys", [[{"parcel": 4000}], [{"parcel": 3}, {"parcel": 4000}], [{"parcel": 4000, "day": "2024-01-01"}]]
)
def test_an_unknown_key_is_named(client: httpx.Client, keys: list[dict[str, Any]]) -> None:
    answer = client.post("/predict", json={"keys": keys})
    assert answer.status_code == 404
    problem = answer.json()
    assert problem["detail"] == f"gold.parcels version 0 has no row for 1 of the {len(keys)} keys."
    (fault,) = problem["faults"]
    assert fault["location"] == f"keys.{len(keys) - 1}"
    assert fault["message"].startswith('There is no row with {"parcel":4000')
    wrong_day = client.post("/predict", json={"keys": [{"parcel": 3, "day": "2024-01-02"}]})
    assert wrong_day.status_code == 404


def test_features_are_read_from_the_newest_version(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client(make_service(place)) as client:
        before = predict(client, keys=[{"parcel": 3}])
        place.write(parcels(seed=1).slice(0, 390))
        after = predict(client, keys=[{"parcel": 3}])
        assert [answer["predictions"][0]["feature_version"] for answer in (before, after)] == [0, 1]
        assert probabilities(before) != probabilities(after) == place.probabilities("2024-01-01", "2024-01-01")[3:4]
        assert client.post("/predict", json={"keys": [{"parcel": 395}]}).status_code == 404
        monkeypatch.setattr(lookups, "WHOLE_DAY_ROWS", 5)  # the day is too large to be cached
        place.write(parcels())
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == probabilities(before)
        shutil.rmtree(place.lake / "gold" / "parcels")
        place.write(parcels(seed=1))  # a new table in the same place: its versions begin at 0
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == probabilities(after)


def test_a_rebuilt_table_replaces_cached_days(place: Place) -> None:
    def rebuild(seed: int, versions: int) -> list[float]:
        shutil.rmtree(place.lake / "gold" / "parcels")
        for _ in range(versions):
            place.write(parcels(seed))
        return place.probabilities("2024-01-01", "2024-01-01")[3:4]

    with open_client(make_service(place)) as client:
        place.write(parcels())
        first = predict(client, keys=[{"parcel": 3}])
        assert first["predictions"][0]["feature_version"] == 1
        fewer = rebuild(seed=1, versions=1)
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == fewer != probabilities(first)
        more = rebuild(seed=2, versions=2)
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == more != fewer
        as_many = rebuild(seed=3, versions=2)
        assert probabilities(predict(client, keys=[{"parcel": 3}])) == as_many != more


def test_cached_days_answer_while_the_store_hangs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client(make_service(place)) as client:
        expected = predict(client, keys=[{"parcel": 3}])
        is_hanging, may_continue = threading.Event(), threading.Event()

        def hang(*_: Any) -> Any:
            is_hanging.set()
            assert may_continue.wait(30)
            raise StorageError("no answer")

        monkeypatch.setattr(lookups, "open_features", hang)
        request = threading.Thread(target=lambda: client.get("/model"))
        request.start()
        try:
            assert is_hanging.wait(10)
            answer = predict(client, keys=[{"parcel": 3}])
            assert answer["predictions"] == expected["predictions"]
            assert client.get("/model").json()["feature_version"] == 0
        finally:
            may_continue.set()
            request.join()
        assert predict(client, keys=[{"parcel": 3}])["predictions"] == expected["predictions"]


def test_routes_that_read_a_deleted_table_answer_503(place: Place) -> None:
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


def test_an_unreadable_table_answers_503_without_internals(place: Place) -> None:
    with open_client(make_service(place)) as client:
        for file in (place.lake / "gold" / "parcels").glob("*.parquet"):
            file.unlink()
        answer = client.post("/predict", json={"keys": [{"parcel": 3}]})
        assert (answer.status_code, answer.json()["detail"]) == (503, "Features cannot be looked up at the moment.")
        assert probabilities(predict(client, features=[ROW]))


def test_model_lists_the_versions_in_service(client: httpx.Client) -> None:
    info = client.get("/model").json()
    (version,) = info["serving"]
    assert (version["alias"], version["version"], version["module"]) == ("champion", GOOD, "tests.parcels")
    assert version["input_columns"] == ["distance_km", "shop", "items"]
    assert probabilities(predict(client, features=[version["typical"]])), "typical values are valid features"
    assert (info["task"], info["feature_table"], info["feature_version"]) == ("late_parcel", "gold.parcels", 0)
    assert (info["key"], info["time"], info["canary"]) == (["parcel"], "day", 0)


def test_metrics_count_requests_and_predictions(client: httpx.Client) -> None:
    predict(client, features=[ROW] * 3)
    client.get("/nothing/here")
    text = client.get("/metrics").text
    assert 'serving_predictions_total{alias="champion",version="1"}' in text
    assert 'serving_requests_total{path="/predict",status="200"}' in text
    assert 'serving_requests_total{path="other",status="404"}' in text
    assert 'serving_request_seconds_bucket{le="0.001",path="/predict"}' in text
    assert 'serving_model_version{alias="champion"} 1.0' in text


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer wrong", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer \xff"]
)
def test_only_health_is_public(client: httpx.Client, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    with httpx.Client(base_url=client.base_url, headers=headers) as stranger:
        assert [stranger.get(path).json()["status"] for path in ("/health", "/ready")] == ["ok", "ready"]
        answers = [stranger.get(path) for path in ("/model", "/metrics", "/openapi.json", "/nothing")]
        for answer in (*answers, stranger.post("/predict", json={"features": [ROW]})):
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert KEY not in answer.text


def features(**changed: Any) -> str:
    return json.dumps({"features": [{**ROW, **changed}]})


BAD_REQUESTS = {
    "nan": (features(distance_km=float("nan")), "features.0.distance_km: Input should be a finite number"),
    "infinity": (features(distance_km=float("-inf")), "features.0.distance_km: Input should be a finite number"),
    "beyond floats": ('{"features": [{"distance_km": 1e999, "shop": "north", "items": 1}]}', "finite number"),
    "digits": (features(distance_km=10**400), "finite number"),
    "text for a number": (features(distance_km="90"), "features.0.distance_km: Input should be a valid number"),
    "boolean for a number": (features(items=True), "features.0.items: Input should be a valid number"),
    "number for text": (features(shop=1), "features.0.shop: Input should be a valid string"),
    "list for text": (features(shop=["north"]), "features.0.shop: Input should be a valid string"),
    "fraction": (
        features(items=1.5),
        "features.0.items: Input should be a valid integer, got a number with a fractional part",
    ),
    "tiny fraction": (features(items=1e-42), "features.0.items: Input should be a valid integer"),
    "too large": (features(items=2**63), "features.0.items: Input should be less than or equal to"),
    "missing": ('{"features": [{"distance_km": 1, "shop": "north"}]}', "features.0.items: Field required"),
    "unknown column": (features(weight=1), "features.0.weight: Extra inputs are not permitted"),
    "the label": (features(late=True), "features.0.late: Extra inputs are not permitted"),
    "no row": ('{"features": []}', "features: List should have at least 1 item"),
    "many rows": (
        json.dumps({"keys": [{"parcel": n} for n in range(1001)]}),
        "keys: List should have at most 1000 items",
    ),
    "no key": ('{"keys": [{}]}', "keys.0.parcel: Field required"),
    "null key": ('{"keys": [{"parcel": null}]}', "keys.0.parcel: Input should be a valid number"),
    "text key": ('{"keys": [{"parcel": "3"}]}', "keys.0.parcel: Input should be a valid number"),
    "no day": ('{"keys": [{"parcel": 3, "day": "2024-02-31"}]}', "keys.0.day: Input should be a valid date"),
    "both": (json.dumps({"features": [ROW], "keys": [{"parcel": 3}]}), "Give either `features` or `keys`."),
    "neither": ("{}", "Give either `features` or `keys`."),
    "unknown field": ('{"rows": []}', "rows: Extra inputs are not permitted"),
    "a list": ("[]", "body: Input should be an object"),
    "nothing": ("", "body: Invalid JSON"),
    "no JSON": ("features=1", "body: Invalid JSON"),
    "no Unicode": (b'{"features": [{"shop": "\xff"}]}', "body: Invalid JSON"),
    "lone surrogate": ('{"features": [{"shop": "\\ud800"}]}', "body: Invalid JSON"),
    "deep": ("[" * 100_000, "body: Invalid JSON: recursion limit exceeded"),
}


@pytest.mark.parametrize(("body", "text"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_gets_its_faults(client: httpx.Client, body: str | bytes, text: str) -> None:
    answer = client.post("/predict", content=body, headers=JSON)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    faults = [f"{fault['location']}: {fault['message']}" for fault in problem["faults"]]
    assert text in "\n".join([problem["detail"], *faults])


def test_only_the_first_faulty_row_is_reported(client: httpx.Client) -> None:
    wide = {f"unknown_{n}": 1 for n in range(3)}
    problem = client.post("/predict", json={"features": [{**ROW, **wide}] * 1000}).json()
    assert problem["detail"] == "The request has 3 faults.", "only the first row with faults is reported"
    assert {fault["location"] for fault in problem["faults"]} == {f"features.0.{name}" for name in wide}


@pytest.mark.parametrize("row", [{f"unknown_{n}": 1 for n in range(50_000)}, {f"{n}": {} for n in range(8)}])
def test_a_row_with_extra_columns_is_one_fault(client: httpx.Client, row: dict[str, Any]) -> None:
    for kind in ("features", "keys"):
        rows = [FULL_ROW if kind == "features" else {"parcel": 1}, row]
        (fault,) = client.post("/predict", json={kind: rows}).json()["faults"]
        assert fault == {"location": f"{kind}.1", "message": f"There are {len(row)} columns, and the table has 7."}
    answer = client.post("/predict", json=row)
    assert (answer.status_code, answer.json()["detail"]) == (422, "Give either `features` or `keys`.")


def test_a_large_or_non_json_body_is_refused(client: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/predict", content=features(), headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert client.post(
        "/predict", content=features(), headers={"Content-Type": "application/json; charset=utf-8"}
    ).is_success
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 50_000_000:
            sent += 100_000
            yield b" " * 100_000

    for body in (b" " * 1_200_000, b" " * 5_000_000):
        answer = client.post("/predict", content=body, headers=JSON)
        assert answer.status_code == 413
        assert "1,000,000 bytes" in answer.json()["detail"]
    with suppress(httpx.WriteError, httpx.ReadError):  # the server may close the connection early
        assert client.post("/predict", content=endless(), headers=JSON).status_code == 413
    assert sent < 50_000_000
    assert client.get("/ready").is_success


def test_a_slow_body_times_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.serving.api.app.BODY_SECONDS", 0.2)

    def slow() -> Iterator[bytes]:
        yield b'{"features'
        time.sleep(1)
        yield b'": []}'

    with open_client(make_service(place)) as client:
        assert client.post("/predict", content=slow(), headers=JSON).status_code == 408


def test_unknown_paths_and_methods_get_the_problem_shape(client: httpx.Client) -> None:
    for answer, status in ((client.get("/predict/"), 404), (client.get("/predict"), 405), (client.put("/model"), 405)):
        assert answer.status_code == status
        assert answer.json().keys() == {"request_id", "detail", "faults"}
    assert client.get("/predict").headers["Allow"] == "POST"


def test_a_request_keeps_its_callers_id(client: httpx.Client) -> None:
    answer = client.post("/predict", json={"features": [ROW]}, headers={"X-Request-ID": "order-17.a_b"})
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "order-17.a_b"
    for invalid in ("a b", "x" * 65, "<script>", ""):
        assert client.get("/ready", headers={"X-Request-ID": invalid}).headers["X-Request-ID"] != invalid


def model_with(change: Callable[[Any, np.ndarray], np.ndarray]) -> Any:
    """Return a module with changed predictions: ``change`` receives the frame and the model's probabilities."""
    return change_model(predict=lambda fitted, frame: change(frame, shop.predict(fitted, frame)))


def fail_at_13(frame: Any, probability: np.ndarray) -> np.ndarray:
    if (frame["distance_km"] == 13).any():
        raise RuntimeError("internal secrets")
    return np.where(frame["distance_km"] == 14, np.nan, probability)


def test_internal_errors_are_only_in_the_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with open_client(make_service(place, model_with(fail_at_13))) as client:
        for distance, text in ((13, "internal secrets"), (14, "the output is not one probability per row")):
            answer = client.post("/predict", json={"features": [{**ROW, "distance_km": distance}]})
            assert answer.status_code == 500
            problem = answer.json()
            assert problem["detail"] == "Internal error. The server's log has the details under this request's id."
            assert (problem["faults"], "Traceback" in answer.text) == ([], False)
            assert f"{problem['request_id']} failed" in caplog.text
            assert text in caplog.text
        assert predict(client, features=[ROW])


def test_a_slow_prediction_times_out(place: Place) -> None:
    def slow(frame: Any, probability: np.ndarray) -> np.ndarray:
        time.sleep(1.0 if (frame["distance_km"] == 13).any() else 0)
        return probability

    with open_client(make_service(place, model_with(slow)), seconds=0.3) as client:
        answer = client.post("/predict", json={"features": [{**ROW, "distance_km": 13}]})
        assert (answer.status_code, answer.json()["detail"]) == (504, "There was no answer within 0.3 seconds.")
        time.sleep(1)
        assert predict(client, features=[ROW])


def test_concurrent_requests_get_their_own_rows(client: httpx.Client) -> None:
    rows = [{**ROW, "distance_km": n / 10} for n in range(1000)]
    expected = probabilities(predict(client, features=rows))
    assert len(set(expected)) > 5
    answers: dict[int, list[float]] = {}

    def send(start: int) -> None:
        with httpx.Client(base_url=client.base_url, headers=HEADERS, timeout=30) as own_client:
            for n in range(start, 1000, 8):
                answers[n] = probabilities(predict(own_client, features=rows[n : n + 1 + n % 3]))

    threads = [threading.Thread(target=send, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: expected[n : n + 1 + n % 3] for n in range(1000)}
