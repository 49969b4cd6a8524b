"""`lakehouse serve` as a process: what it refuses to start with, the move of an alias under load, its end."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from tests.parcels import Place
from tests.served import GOOD, KEY, ROW, SHOWN, WEAK, copy_of, give_alias, requests_of, serving, start

# It has what both versions read.
BODY = {"features": [{**ROW, "noise": 0.5}]}


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_of(trained_parcels, tmp_path)


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield str(held.getsockname()[1])


def refused(root: Path, *options: str, **environment: str) -> str:
    process = start(root, *options, **environment)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert KEY not in said
    return said


@pytest.mark.parametrize("key", ["", "short", "with a space in the midst", "nicht-aus-ascii-äöü"])
def test_it_does_not_start_without_a_key(tmp_path: Path, key: str) -> None:
    said = refused(tmp_path, SERVING_API_KEY=key)
    assert "SettingsError: SERVING_API_KEY " in said
    assert not key or key not in said


def test_it_does_not_start_without_what_it_needs(place: Place, tmp_path: Path, taken: str) -> None:
    assert "ModelError: late_parcel has no champion" in refused(tmp_path / "empty")
    assert "ModelError: No model learns 'early_parcel'" in refused(tmp_path, "early_parcel")
    assert f"SettingsError: 127.0.0.1:{taken} cannot be listened at" in refused(tmp_path, "--port", taken)
    down = refused(tmp_path, LAKEHOUSE_MLFLOW="http://127.0.0.1:9")
    assert "ModelError: The MLflow server at http://127.0.0.1:9" in down
    assert "does not answer" in down
    give_alias(place, "champion", None)
    assert "has no champion" in refused(tmp_path)


class Load(threading.Thread):
    """A client that asks until it is told to stop; keeps the status and the version of each answer."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.done = url, threading.Event()
        self.answers: list[tuple[int, int]] = []

    def run(self) -> None:
        with httpx.Client(base_url=self.url, headers=SHOWN, timeout=30) as client:
            while not self.done.is_set():
                answer = client.post("/predict", json=BODY)
                version = answer.json()["predictions"][0]["model_version"] if answer.is_success else 0
                self.answers.append((answer.status_code, version))


def test_an_alias_moves_under_load_without_a_failed_request(place: Place, tmp_path: Path) -> None:
    with serving(tmp_path, "--look-seconds", "0.2") as server:
        loads = [Load(server.url) for _ in range(4)]
        for one in loads:
            one.start()
        try:
            for version in (WEAK, GOOD, WEAK):
                time.sleep(1)
                give_alias(place, "champion", version)
                until = time.monotonic() + 60
                while any(one.answers[-1:] != [(200, version)] for one in loads):
                    assert time.monotonic() < until, [one.answers[-1] for one in loads]
                    time.sleep(0.05)
        finally:
            for one in loads:
                one.done.set()
                one.join()
        answers = [answer for one in loads for answer in one.answers]
        assert {status for status, _ in answers} == {200}
        for one in loads:
            versions = [version for _, version in one.answers]
            assert [a for a, b in zip(versions, [0, *versions], strict=False) if a != b] == [GOOD, WEAK, GOOD, WEAK]
        assert server.end() == 0
    assert len(requests_of(place)) == len(answers)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_at_its_end_it_answers_what_was_asked_and_writes_what_was_answered(
    place: Place, tmp_path: Path, how: signal.Signals
) -> None:
    with serving(tmp_path, PREDICT_SECONDS="2") as server:
        connections = [HTTPConnection(server.url.removeprefix("http://"), timeout=30) for _ in range(5)]
        for one in connections:
            one.request("GET", "/ready")
            assert one.getresponse().read()
        for one in connections:
            one.request("POST", "/predict", json.dumps(BODY), {**SHOWN, "Content-Type": "application/json"})
        time.sleep(1)
        server.process.send_signal(how)
        answers = [one.getresponse() for one in connections]
        assert [one.status for one in answers] == [200] * 5
        assert server.process.wait(120) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
    assert {one["request_id"] for one in requests_of(place)} == {one.headers["X-Request-ID"] for one in answers}


def test_it_serves_on_without_mlflow_and_shares_with_the_challenger(place: Place, tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--canary", "0.5", "--look-seconds", "0.2") as server,
        httpx.Client(base_url=server.url, headers=SHOWN) as client,
    ):
        (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
        time.sleep(1)
        answers = [client.post("/predict", json=BODY).json()["predictions"][0]["model_version"] for _ in range(60)]
        assert 10 < answers.count(WEAK) < 50
        assert client.get("/ready").status_code == 200
        assert 'serving_model_look_failures_total{alias="champion"}' in client.get("/metrics").text
        assert server.end() == 0
    (log,) = (tmp_path / "logs").glob("*.log")
    text = log.read_text()
    assert "mlflow.db is gone." in text
    assert "POST /predict 200" in text
    assert "challenger 2, 1 rows" in text
    assert KEY not in text
