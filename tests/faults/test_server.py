"""The API's process while MLflow is away, while its alias moves, and while callers hold connections."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from lakehouse.serving.api.connections import HEADER_SECONDS, MAX_CONNECTIONS
from tests.lakehouse.serving.api.test_server import BODY
from tests.parcels import Place
from tests.served import GOOD, HEADERS, KEY, WEAK, copy_place, give_alias, read_requests, run_server


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow this process 2,000 open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.usefixtures("many_files", "place")
@pytest.mark.parametrize(
    "sent",
    [b"POST /predict HTTP/1.1\r\nHost: he", b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"],
    ids=["half-sent", "idle"],
)
def test_900_held_connections_stop_no_one(tmp_path: Path, sent: bytes) -> None:
    with run_server(tmp_path) as server, ExitStack() as stack:
        process = psutil.Process(server.process.pid)
        files = process.num_fds()
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for n in range(900):
            held = stack.enter_context(socket.create_connection(address))
            held.sendall(sent)
            if n % 50 == 0:
                assert httpx.post(f"{server.url}/predict", json=BODY, headers=HEADERS, timeout=30).status_code == 200
        # The server accepts a burst of connections before it ends those that are too many.
        wait_until(lambda: process.num_fds() <= files + MAX_CONNECTIONS + 20, seconds=5)
        wait_until(lambda: process.num_fds() <= files + 20, seconds=HEADER_SECONDS + 20)
        assert server.end() == 0
