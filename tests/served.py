"""Serving of the parcels' model for tests: in this process, and in a separate one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from deltalake import DeltaTable

from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.serving.api.app import Service, create_app
from lakehouse.serving.api.connections import build_server
from lakehouse.serving.api.journal import Journal
from lakehouse.serving.api.lookups import Lookups
from lakehouse.serving.api.watcher import ModelWatcher
from tests.parcels import LEARNER, TASK, Place, change_model, parcels
from tests.paths import PROJECT

KEY = "key-of-the-tests-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}"}
GOOD, WEAK = 1, 2
# ROW has the good version's input columns. FULL_ROW has the columns of both versions, and more.
ROW = {"distance_km": 90.5, "shop": "north", "items": 2}
FULL_ROW = {**ROW, "noise": 0.5, "parcel": 7, "day": "2024-01-01"}


def train_two(root: Path) -> Place:
    """Return a place with a good champion, and a weak challenger with another input column."""
    place = place_at(root)
    place.write(parcels())
    assert place.train(change_model()).alias == "champion"
    assert place.train(change_model(FEATURES=("noise",))).alias == "challenger"
    return place


def place_at(root: Path) -> Place:
    return Place(root / "lake", f"sqlite:///{root / 'mlflow.db'}", (root / "mlartifacts").as_uri())


def copy_place(place: Place, root: Path) -> Place:
    """Copy the lake and the registry of a place. The models' files are shared."""
    shutil.copytree(place.lake, root / "lake")
    shutil.copy(place.lake.parent / "mlflow.db", root / "mlflow.db")
    return place_at(root)


def give_alias(place: Place, alias: str, version: int | None) -> None:
    """Give a version the alias, or remove the alias if the version is None."""
    with open_tracking_client(place.tracking_uri) as client:
        if version is None:
            client.delete_registered_model_alias(TASK.name, alias)
        else:
            client.set_registered_model_alias(TASK.name, alias, version)


def predict(client: httpx.Client, **body: Any) -> Any:
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def probabilities(answer: Any) -> list[float]:
    return [prediction["probability"] for prediction in answer["predictions"]]


def read_requests(place: Place) -> list[dict[str, Any]]:
    table = DeltaTable(place.lake / "serving" / "late_parcel_requests").to_pyarrow_table()
    return sorted(table.to_pylist(), key=lambda row: (row["at"], row["request_id"], row["row"]))


def make_service(place: Place, module: Any = None, canary: float = 0, flush_seconds: float = 0.1) -> Service:
    lookups = Lookups(TASK, place.lake)
    watcher = ModelWatcher(TASK, {LEARNER: module or change_model()}, lookups, place.tracking_uri, canary)
    journal = Journal(lookups.features, place.lake, flush_seconds)
    return Service(TASK, watcher, lookups, journal, refresh_seconds=3600)


@contextmanager
def open_client(service: Service, **options: Any) -> Iterator[httpx.Client]:
    """Run the service on a thread of this process and yield a client."""
    with (
        run_in_thread(build_server(create_app(service, KEY, **options))) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=HEADERS, timeout=30) as client,
    ):
        yield client


@contextmanager
def run_in_thread(server: uvicorn.Server) -> Iterator[int]:
    """Run a server on a thread of this process and yield its port."""
    server.config.port = 0
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class ServerProcess:
    """Process of `lakehouse serve` on a free port."""

    process: subprocess.Popen[str]
    url: str

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(120)


@contextmanager
def run_server(root: Path, *options: str, **environment: str) -> Iterator[ServerProcess]:
    process = start_server(root, "--port", "0", *options, **environment)
    try:
        assert process.stdout
        line = process.stdout.readline()
        match = re.search(r"answers at (http://127\.0\.0\.1:\d+)", line)
        assert match, line + process.communicate(timeout=60)[0]
        yield ServerProcess(process, match[1])
    finally:
        process.kill()
        process.communicate()


def start_server(root: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "SERVING_"))}
    variables |= {"LAKEHOUSE_ROOT": str(root), "LAKEHOUSE_MODELS": '{"trees": "tests.parcel_model"}'}
    variables |= {"PYTHONPATH": str(PROJECT), "SERVING_API_KEY": KEY, **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "lakehouse.cli.main", "serve", *options],
        env={name: value for name, value in variables.items() if value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
