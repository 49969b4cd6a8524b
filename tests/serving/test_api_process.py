"""`lakehouse serve` as a process: what it refuses to start with, the move of an alias under load, its end."""

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

# It has what both versions read.
BODY = {"features": [{**ROW, "noise": 0.5}]}


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield str(held.getsockname()[1])


def refused(root: Path, *options: str, **environment: str) -> str:
    process = start_server(root, *options, **environment)
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
    assert f"SettingsError: 127.0.0.1:{taken} is not available" in refused(tmp_path, "--port", taken)
    down = refused(tmp_path, LAKEHOUSE_MLFLOW="http://127.0.0.1:9")
    assert "ModelError: The MLflow server at http://127.0.0.1:9" in down
    assert "does not answer" in down
    give_alias(place, "champion", None)
    assert "has no champion" in refused(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_at_its_end_it_answers_what_was_asked_and_writes_what_was_answered(
    place: Place, tmp_path: Path, how: signal.Signals
) -> None:
    with run_server(tmp_path, PREDICT_SECONDS="2") as server:
        connections = [HTTPConnection(server.url.removeprefix("http://"), timeout=30) for _ in range(5)]
        for one in connections:
            one.request("GET", "/ready")
            assert one.getresponse().read()
        for one in connections:
            one.request("POST", "/predict", json.dumps(BODY), {**HEADERS, "Content-Type": "application/json"})
        time.sleep(1)
        server.process.send_signal(how)
        answers = [one.getresponse() for one in connections]
        assert [one.status for one in answers] == [200] * 5
        assert server.process.wait(120) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
    assert {one["request_id"] for one in read_requests(place)} == {one.headers["X-Request-ID"] for one in answers}
