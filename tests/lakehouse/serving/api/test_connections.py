"""Tests of the limits of connections: slow callers lose theirs, and the others are answered."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from lakehouse.serving.api import connections
from lakehouse.serving.api.connections import build_server
from lakehouse.serving.api.guard import Guard
from tests.served import KEY, run_in_thread

HEALTH = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"
HALF = b"GET /health HTTP/1.1\r\nHost: he"
AUTHORIZED = b" HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n"
# More than the buffers of both systems.
LARGE = b" " * 20_000_000


class App:
    """Application that answers /health at once, /large with many bytes, and any other path after `finish`."""

    def __init__(self) -> None:
        self.running, self._finished = 0, asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.running += 1
        if scope["path"] not in ("/health", "/large"):
            await self._finished.wait()
        body = LARGE if scope["path"] == "/large" else b"ok"
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.running -= 1

    def finish(self) -> None:
        self._finished._loop.call_soon_threadsafe(self._finished.set)  # type: ignore[attr-defined]


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def port(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Serve on a thread, and yield the port."""
    for name in ("HEADER_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(connections, name, 0.5)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    server = build_server(Guard(app, KEY, seconds=5))
    with run_in_thread(server) as port:
        yield port
    assert not server.server_state.connections


def connect(port: int, sent: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=10)
    made.sendall(sent)
    return made


def read(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    parts = []
    try:
        while part := connection.recv(1_000_000):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def parse(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Return the status of an answer, and its problem."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    problem = json.loads(body)
    assert f"x-request-id: {problem.pop('request_id')}".encode() in head.lower()
    return int(head.split()[1]), problem


def ask(port: int) -> bytes:
    """Return the status line of a good caller's answer."""
    with connect(port, HEALTH.replace(b"Host", b"Connection: close\r\nHost")) as connection:
        return read(connection).partition(b"\r\n")[0]


@contextmanager
def drip(connection: socket.socket) -> Iterator[None]:
    """Send a byte each 50 ms."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.05):
            try:
                connection.send(b"a")
            except OSError:
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_slow_headers_end_with_408(port: int) -> None:
    for before in (b"", HEALTH):
        with connect(port, before + HALF) as connection, drip(connection):
            start = time.monotonic()
            answer = read(connection)
            assert 0.3 < time.monotonic() - start < 2
        assert answer.startswith(b"HTTP/1.1 200") == bool(before)
        problem = {"detail": "The headers did not come within 0.5 seconds.", "faults": []}
        assert parse(answer[answer.index(b"HTTP/1.1 408") :]) == (408, problem)


def test_silent_connections_are_closed(port: int) -> None:
    with connect(port) as silent, connect(port, HEALTH) as idle:
        start = time.monotonic()
        assert read(idle).startswith(b"HTTP/1.1 200")
        assert 0.1 < time.monotonic() - start < 0.45
        assert read(silent) == b""
        assert time.monotonic() - start < 2


def test_a_body_that_no_one_reads_is_limited(port: int) -> None:
    for body in (b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nFFFFFF\r\n"):
        with connect(port, HEALTH[:-2] + body) as connection, drip(connection):
            start = time.monotonic()
            assert read(connection).startswith(b"HTTP/1.1 200")
            assert time.monotonic() - start < 2


@pytest.mark.parametrize("pause", [0, 0.05])
@pytest.mark.parametrize("name", ["query", "value", "names"])
def test_large_headers_end_with_431(port: int, name: str, pause: float) -> None:
    head = {
        "query": b"GET /health?" + b"a" * 30_000 + HEALTH[11:],
        "value": HEALTH[:-2] + b"A: " + b"a" * 30_000 + b"\r\n\r\n",
        "names": HEALTH[:-2] + b"".join(b"A%d: 1\r\n" % n for n in range(4000)) + b"\r\n",
    }[name]
    with connect(port) as connection:
        for part in (head[:20_000], head[20_000:]) if pause else (head,):
            time.sleep(pause)
            try:
                connection.sendall(part)
            except OSError:
                break
        answer = read(connection)
    assert parse(answer) == (431, {"detail": "The headers may have 16,384 bytes.", "faults": []})


def test_what_is_no_request_is_a_problem(port: int) -> None:
    with connect(port, b"\x16\x03\x01 no HTTP\r\n\r\n") as connection:
        assert parse(read(connection)) == (400, {"detail": "Invalid HTTP request received.", "faults": []})


def test_headers_within_the_limit_are_answered(port: int) -> None:
    with connect(port, HEALTH[:-2] + b"A: " + b"a" * 16_000) as connection:
        time.sleep(0.1)
        connection.sendall(b"\r\n\r\n")
        assert read(connection).startswith(b"HTTP/1.1 200")


def test_an_unread_answer_is_dropped(app: App, port: int) -> None:
    large = b"GET /large" + AUTHORIZED + b"\r\n"
    for request in (large, large * 5, large.replace(b"Host", b"Connection: close\r\nHost")):
        with connect(port, request) as connection:
            time.sleep(1)
            assert app.running == 0
            assert len(read(connection)) < len(LARGE)


def test_a_slowly_read_answer_is_dropped(port: int) -> None:
    large = b"GET /large" + AUTHORIZED + b"\r\n"
    with connect(port, large) as connection:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            connection.recv(1000)
            time.sleep(0.02)
        assert len(read(connection)) < len(LARGE) - 1_000_000


@pytest.mark.parametrize("sent", [b"", HALF, HEALTH])
def test_waiting_connections_make_room_for_new_ones(port: int, sent: bytes) -> None:
    with ExitStack() as stack:
        waiting = []
        for n in range(60):
            waiting.append(stack.enter_context(connect(port, sent)))
            if n % 5 == 0:
                assert ask(port) == b"HTTP/1.1 200 OK"
        closed = [connection for connection in waiting[:30] if not read(connection).startswith(b"HTTP/1.1 408")]
        assert closed == waiting[:30]


def test_busy_connections_refuse_new_ones(app: App, port: int) -> None:
    slow = (
        b"GET /model HTTP/1.1\r\nHost: here\r\nConnection: close\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
    )
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(port, slow)) for _ in range(20)]
        while app.running < 20:
            time.sleep(0.01)
        with connect(port) as connection:
            answer = read(connection)
        assert b"retry-after: 1" in answer.lower()
        assert parse(answer) == (503, {"detail": "All connections are in use. Try again later.", "faults": []})
        app.finish()
        assert [read(connection)[:12] for connection in busy] == [b"HTTP/1.1 200"] * 20
    assert ask(port) == b"HTTP/1.1 200 OK"


def test_an_upgrade_does_not_avoid_the_key(port: int) -> None:
    upgrade = b"GET /model HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with connect(port, upgrade + key) as connection:
        status, problem = parse(read(connection))
    assert (status, problem["detail"]) == (
        401,
        "The key is missing or wrong. Send the header Authorization: Bearer KEY.",
    )
