"""A MinIO server for the measurements, and the requests that it served."""

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

from deploy.prepare import create_buckets
from deploy.programs import find

BUCKET = "lakehouse"
START_SECONDS = 60
# MinIO reports requests in batches, shortly after it answered them.
SETTLE_SECONDS = 3


class Audit:
    """Counts of the requests that MinIO reports. Attributes: counts: {(place, kind): requests}."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, body: bytes) -> None:
        decoder, text = json.JSONDecoder(), body.decode().strip()
        while text:
            entry, end = decoder.raw_decode(text)
            text = text[end:].lstrip()
            call = entry["api"]
            if call.get("bucket") == BUCKET:
                prefix = (entry.get("requestQuery") or {}).get("prefix", "")
                self.counts[table_or_folder(call.get("object") or prefix), call["name"]] += 1

    def drain(self) -> dict[str, dict[str, int]]:
        """Return the requests since the last call, and count from zero again: {place: {kind: requests}}."""
        time.sleep(SETTLE_SECONDS)
        counts, self.counts = self.counts, Counter()
        by_place: dict[str, dict[str, int]] = {}
        for (place, kind), count in sorted(counts.items()):
            by_place.setdefault(place, {})[kind] = count
        return by_place


def table_or_folder(key: str) -> str:
    """Return the table that a key belongs to, or the top folder."""
    parts = key.strip("/").split("/")
    if parts[0] == "lake" and len(parts) > 2:
        return ".".join(parts[1:3])
    return parts[0]


@contextmanager
def minio(folder: Path, audit: Audit | None = None) -> Iterator[dict[str, str]]:
    """Run a server with its data in the folder, and yield the environment of its clients.

    Args:
        audit: counts the requests; None counts none.
    """
    keys = {"AWS_ACCESS_KEY_ID": secrets.token_hex(8), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
    variables = {"MINIO_ROOT_USER": keys["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": keys["AWS_SECRET_ACCESS_KEY"]}
    port = _free_port()
    env = {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    folder.mkdir(parents=True)
    command = [
        find("minio", folder),
        "server",
        str(folder),
        "--quiet",
        "--address",
        f"127.0.0.1:{port}",
        "--console-address",
        f"127.0.0.1:{_free_port()}",
    ]
    with _listen(audit) as address, folder.with_suffix(".log").open("wb") as log:
        if address:
            variables |= {"MINIO_AUDIT_WEBHOOK_ENABLE_bench": "on", "MINIO_AUDIT_WEBHOOK_ENDPOINT_bench": address}
        server = subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log)
        try:
            _wait_for(env)
            yield env
        finally:
            server.terminate()
            server.wait()


def _wait_for(env: Mapping[str, str]) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            create_buckets(env)
            return
        except Exception:  # every failure means that the server is not ready yet
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@contextmanager
def _listen(audit: Audit | None) -> Iterator[str]:
    """Yield the address at which the audit receives MinIO's reports; empty without an audit."""
    if audit is None:
        yield ""
        return
    add = audit.add

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            add(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _free_port() -> int:
    with closing(create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])
