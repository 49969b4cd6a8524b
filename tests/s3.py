"""S3 servers for the tests, each with a data folder of its own, and a proxy that loses answers."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tests.stack import find_program

REGION = "us-east-1"


def new_keys() -> dict[str, str]:
    """Make credentials of a new user, as environment variables."""
    return {"AWS_ACCESS_KEY_ID": secrets.token_hex(8), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}


def make_client(endpoint: str, env: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=30),
    )


@contextmanager
def minio(
    folder: Path, keys: dict[str, str] | None = None, port: int | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a MinIO server with its data in the folder.

    Yields:
        Its endpoint, and the environment variables that a client needs.
    """
    keys = keys or new_keys()
    free, console = free_ports(2)
    port = port or free
    while console == port:  # a free port may be returned twice
        (console,) = free_ports(1)
    addresses = ["--address", f"127.0.0.1:{port}", "--console-address", f"127.0.0.1:{console}"]
    command = [find_program("minio"), "server", "--quiet", *addresses, str(folder)]
    root = {"MINIO_ROOT_USER": keys["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": keys["AWS_SECRET_ACCESS_KEY"]}
    with _run_server(command, root, folder, port, keys) as running:
        yield running


@contextmanager
def seaweedfs(folder: Path, keys: dict[str, str] | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a SeaweedFS server with its data in the folder, like `minio`."""
    keys = keys or new_keys()
    services = ("s3", "master", "volume", "filer")
    port, *ports = free_ports(2 * len(services))
    names = [f"{service}.port{kind}" for kind in ("", ".grpc") for service in services]
    options = {"dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3": "true"}
    options |= {"master.volumeSizeLimitMB": 64, "volume.max": 50, **dict(zip(names, [port, *ports], strict=True))}
    command = [find_program("weed"), "server", *(f"-{name}={value}" for name, value in options.items())]
    with _run_server(command, keys, folder, port, keys) as running:
        yield running


SERVERS = {"minio": minio, "seaweedfs": seaweedfs}


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@contextmanager
def _run_server(
    command: list[str], env: dict[str, str], folder: Path, port: int, keys: dict[str, str]
) -> Iterator[tuple[str, dict[str, str]]]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    endpoint = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(command, env={**os.environ, **env}, cwd=folder, stdout=output, stderr=output)
    try:
        _wait(endpoint, keys, server, log)
        yield endpoint, {**keys, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": REGION}
    finally:
        server.kill()  # after a polite signal, SeaweedFS takes half a minute
        server.wait()


def _wait(endpoint: str, keys: dict[str, str], server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server creates a bucket. Some answer before they can."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with suppress(make_client(endpoint, keys).exceptions.BucketAlreadyOwnedByYou):
                make_client(endpoint, keys).create_bucket(Bucket="ready")
            return
        except Exception as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{server.args} does not serve: {log.read_text()[-2000:]}") from error
            time.sleep(0.1)


@dataclass
class Proxy:
    """A proxy between a client and a server. It records the requests, and may lose an answer or give another.

    Attributes:
        rule: called with each request's method and path; it may have effects of its own. "pass" passes the request on,
            "lose" passes it on and loses the answer. Otherwise the server gets no request: the proxy is "down", answers
            200 ("pretend"), or refuses ("conflict", "slow down", "expired").
        requests: the method, path and status of each request; status 0 if the answer was lost.
    """

    endpoint: str
    rule: Callable[[str, str], str] = lambda method, path: "pass"
    requests: list[tuple[str, str, int]] = field(default_factory=list)


CONFLICT = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>ConditionalRequestConflict</Code><Message>A conflicting operation is in progress.</Message></Error>"""


SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""
EXPIRED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"""
REFUSALS = {"conflict": (409, CONFLICT), "slow down": (503, SLOW_DOWN), "expired": (400, EXPIRED)}


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy in front of the server at ``upstream``."""
    (port,) = free_ports(1)
    between = Proxy(f"http://127.0.0.1:{port}")
    server = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.body()
            action = between.rule(self.command, self.path)
            if action == "down":
                self.close_connection = True
                return
            if action == "pretend":
                self.answer(200, [("Content-Length", "0")], b"")
                return
            if action in REFUSALS:
                status, content = REFUSALS[action]
                self.answer(status, [("Content-Length", str(len(content)))], content)
                return
            onward = HTTPConnection(server, timeout=60)
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "transfer-encoding"):
                    onward.putheader(name, value)
            if "Transfer-Encoding" in self.headers:
                onward.putheader("Content-Length", str(len(body)))
            onward.endheaders(body)
            answer = onward.getresponse()
            content = answer.read()
            onward.close()
            if action == "lose":
                between.requests.append((self.command, self.path, 0))
                self.close_connection = True
                return
            dropped = ("transfer-encoding", "connection")
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
            if answer.getheader("Content-Length") is None:
                headers.append(("Content-Length", str(len(content))))
            self.answer(answer.status, headers, content)

        def body(self) -> bytes:
            """Read the request's body. MLflow's client sends an empty file in chunks."""
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            between.requests.append((self.command, self.path, status))
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = do_HEAD = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        try:
            yield between
        finally:
            served.shutdown()
