"""A MinIO server of its own for the measurements, and the requests that it was sent."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from typing import Any

from deploy.prepare import buckets
from deploy.programs import find

BUCKET = "lakehouse"
START_SECONDS = 60
# MinIO tells of requests in batches, a moment after it answered them.
SETTLE_SECONDS = 3


class Audit:
    """What MinIO says of each request that it was sent: {(where, kind): requests}."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()

    def take(self, body: bytes) -> None:
        decoder, text = json.JSONDecoder(), body.decode().strip()
        while text:
            entry, end = decoder.raw_decode(text)
            text = text[end:].lstrip()
            one = entry["api"]
            if one.get("bucket") == BUCKET:
                prefix = (entry.get("requestQuery") or {}).get("prefix", "")
                self.seen[where(one.get("object") or prefix), one["name"]] += 1

    def taken(self) -> dict[str, dict[str, int]]:
        """What was seen since this was asked last: {where: {kind: requests}}."""
        time.sleep(SETTLE_SECONDS)
        seen, self.seen = self.seen, Counter()
        found: dict[str, dict[str, int]] = {}
        for (place, kind), count in sorted(seen.items()):
            found.setdefault(place, {})[kind] = count
        return found


def where(key: str) -> str:
    """The table that a key belongs to, or the top folder."""
    parts = key.strip("/").split("/")
    if parts[0] == "lake" and len(parts) > 2:
        return ".".join(parts[1:3])
    return parts[0]


@contextmanager
def minio(folder: Path, audit: Audit | None = None) -> Iterator[dict[str, str]]:
    """A server with its data in the folder; the environment that its clients need. Told to, it has its requests counted."""
    keys = {"AWS_ACCESS_KEY_ID": secrets.token_hex(8), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
    port, told = (
        _free_port(),
        {"MINIO_ROOT_USER": keys["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": keys["AWS_SECRET_ACCESS_KEY"]},
    )
    env = {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    folder.mkdir(parents=True)
    command = [find("minio", folder), "server", str(folder), "--quiet", "--address", f"127.0.0.1:{port}",
               "--console-address", f"127.0.0.1:{_free_port()}"]  # fmt: skip
    with _listening(audit) as address, folder.with_suffix(".log").open("wb") as log:
        if address:
            told |= {"MINIO_AUDIT_WEBHOOK_ENABLE_bench": "on", "MINIO_AUDIT_WEBHOOK_ENDPOINT_bench": address}
        server = subprocess.Popen(command, env={**os.environ, **told}, stdout=log, stderr=log)
        try:
            _await(env)
            yield env
        finally:
            server.terminate()
            server.wait()


def _await(env: Mapping[str, str]) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            buckets(env)
            return
        except Exception:  # whatever it is: not well yet
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@contextmanager
def _listening(audit: Audit | None) -> Iterator[str]:
    """The address at which the audit takes what it is told; empty without one."""
    if audit is None:
        yield ""
        return
    take = audit.take

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _free_port() -> int:
    with closing(create_server(("127.0.0.1", 0))) as held:
        return int(held.getsockname()[1])
