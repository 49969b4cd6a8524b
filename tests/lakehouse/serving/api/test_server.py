"""Tests of the process `lakehouse serve`: failures at the start, and the shutdown."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from tests.parcels import Place
from tests.served import HEADERS, KEY, ROW, copy_place, give_alias, read_requests, run_server, start_server

# It has the input columns of both versions.
BODY = {"features": [{**ROW, "noise": 0.5}]}


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


@pytest.fixture
def used_port() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def fail_to_start(root: Path, *options: str, **environment: str) -> str:
    process = start_server(root, *options, **environment)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    assert KEY not in output
    return output


@pytest.mark.parametrize(
    "key", ["", "too-short", "with a space in the middle", "passwordpassword", "nicht-aus-ascii-äöü"]
)
def test_start_needs_a_key(tmp_path: Path, key: str) -> None:
    output = fail_to_start(tmp_path, SERVING_API_KEY=key)
    assert "SettingsError: SERVING_API_KEY " in output
    assert not key or key not in output


def test_start_needs_champion_port_and_registry(place: Place, tmp_path: Path, used_port: str) -> None:
    assert "ModelError: late_parcel has no champion" in fail_to_start(tmp_path / "empty")
    assert "ModelError: No model learns 'early_parcel'" in fail_to_start(tmp_path, "early_parcel")
    assert f"SettingsError: 127.0.0.1:{used_port} is not available" in fail_to_start(tmp_path, "--port", used_port)
    output = fail_to_start(tmp_path, LAKEHOUSE_MLFLOW="http://127.0.0.1:9")
    assert "ModelError: The MLflow server at http://127.0.0.1:9" in output
    assert "does not answer" in output
    give_alias(place, "champion", None)
    assert "has no champion" in fail_to_start(tmp_path)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_answers_and_writes_open_requests(place: Place, tmp_path: Path, signal_number: signal.Signals) -> None:
    with run_server(tmp_path, PREDICT_SECONDS="2") as server:
        connections = [HTTPConnection(server.url.removeprefix("http://"), timeout=30) for _ in range(5)]
        for connection in connections:
            connection.request("GET", "/ready")
            assert connection.getresponse().read()
        for connection in connections:
            connection.request("POST", "/predict", json.dumps(BODY), {**HEADERS, "Content-Type": "application/json"})
        time.sleep(1)
        server.process.send_signal(signal_number)
        answers = [connection.getresponse() for connection in connections]
        assert [answer.status for answer in answers] == [200] * 5
        assert server.process.wait(120) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
    written = {row["request_id"] for row in read_requests(place)}
    assert written == {answer.headers["X-Request-ID"] for answer in answers}
