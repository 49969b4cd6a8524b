"""The API's process while MLflow is away and while its alias moves."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.parcels import Place
from tests.served import GOOD, HEADERS, KEY, WEAK, copy_place, give_alias, read_requests, run_server
from tests.serving.api.test_server import BODY


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


class Load(threading.Thread):
    """Client that sends requests until it is stopped, and records the status and the version of each answer."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.stopping = url, threading.Event()
        self.answers: list[tuple[int, int]] = []

    def run(self) -> None:
        with httpx.Client(base_url=self.url, headers=HEADERS, timeout=30) as client:
            while not self.stopping.is_set():
                answer = client.post("/predict", json=BODY)
                version = answer.json()["predictions"][0]["model_version"] if answer.is_success else 0
                self.answers.append((answer.status_code, version))


def test_an_alias_moves_without_failed_requests(place: Place, tmp_path: Path) -> None:
    with run_server(tmp_path, "--refresh-seconds", "0.2") as server:
        loads = [Load(server.url) for _ in range(4)]
        for load in loads:
            load.start()
        try:
            for version in (WEAK, GOOD, WEAK):
                time.sleep(1)
                give_alias(place, "champion", version)
                deadline = time.monotonic() + 60
                while any(load.answers[-1:] != [(200, version)] for load in loads):
                    assert time.monotonic() < deadline, [load.answers[-1] for load in loads]
                    time.sleep(0.05)
        finally:
            for load in loads:
                load.stopping.set()
                load.join()
        answers = [answer for load in loads for answer in load.answers]
        assert {status for status, _ in answers} == {200}
        for load in loads:
            versions = [version for _, version in load.answers]
            assert [a for a, b in zip(versions, [0, *versions], strict=False) if a != b] == [GOOD, WEAK, GOOD, WEAK]
        assert server.end() == 0
    assert len(read_requests(place)) == len(answers)


def test_both_models_serve_without_mlflow(place: Place, tmp_path: Path) -> None:
    with (
        run_server(tmp_path, "--canary", "0.5", "--refresh-seconds", "0.2") as server,
        httpx.Client(base_url=server.url, headers=HEADERS) as client,
    ):
        (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
        time.sleep(1)
        answers = [client.post("/predict", json=BODY).json()["predictions"][0]["model_version"] for _ in range(60)]
        assert 10 < answers.count(WEAK) < 50
        assert client.get("/ready").status_code == 200
        assert 'serving_model_refresh_failures_total{alias="champion"}' in client.get("/metrics").text
        assert server.end() == 0
    (log,) = (tmp_path / "logs").glob("*.log")
    text = log.read_text()
    assert "mlflow.db: the file does not exist." in text
    assert "POST /predict 200" in text
    assert "challenger 2, 1 rows" in text
    assert KEY not in text
