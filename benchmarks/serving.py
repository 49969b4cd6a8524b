"""Predictions per second and latency of the API, compared with `mlflow models serve` of the same version.

`python -m benchmarks.serving` uses the champion of the configured lake (run `lakehouse train` first). The lake must be
a folder. Both servers run all the time and take turns. Each request holds one row. The request log is beside the lake.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from pydantic_core import to_json

from benchmarks.load import HOST, format_request
from benchmarks.measure import describe_machine
from lakehouse import settings
from lakehouse.ml import models
from lakehouse.ml.dataset import open_features
from lakehouse.ml.scoring import load_by_alias

CLIENTS = (1, 16, 64)
ROWS = 2_000
UP_SECONDS = 120
TARGET = 3.0
# Both servers use one thread for each prediction: with a thread for each core, they block each other.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
SERVERS = {
    "mlflow": "mlflow models serve",
    "features": "API, by features",
    "keys": "API, by key and day",
    "keys_alone": "API, by key",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="seconds of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    configured = settings.load()
    task = models.choose_task(models.load_models(configured), None)
    champion = load_by_alias(task, models.load_models(configured), tracking_uri=configured.tracking_uri)
    key = secrets.token_hex(20)
    requests = _requests(configured, champion.get_input_columns(), key)
    serve = [sys.executable, "-m", "lakehouse.cli.main", "serve", "--port"]
    mlflow = [
        str(Path(sys.executable).with_name("mlflow")),
        "models",
        "serve",
        "--env-manager",
        "local",
        "--model-uri",
        f"models:/{task.name}/{champion.version}",
        "--host",
        HOST,
        "--port",
    ]
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = task.feature_table.split(".")
        root.joinpath("lake", *table[:-1]).mkdir(parents=True)
        root.joinpath("lake", *table).symlink_to(Path(str(configured.lake.joinpath(*table))).resolve())
        env = {"SERVING_API_KEY": key, "MLFLOW_TRACKING_URI": configured.tracking_uri}
        env |= {"LAKEHOUSE_ROOT": str(root), "LAKEHOUSE_MLFLOW": configured.tracking_uri}
        ports = {"mlflow": stack.enter_context(_run_server(mlflow, env, "/ping"))}
        api = stack.enter_context(_run_server(serve, env, "/health"))
        ports |= dict.fromkeys(("features", "keys", "keys_alone"), api)
        loads = _measure(ports, requests, options.rounds, options.seconds)
    results = {"machine": describe_machine(), "rounds": options.rounds, "seconds": options.seconds, "loads": loads}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    print(render_table(loads))


def _requests(configured: settings.Settings, reads: Sequence[str], key: str) -> dict[str, list[str]]:
    """Return requests for the same rows of the test split, in the form of each server."""
    import numpy as np

    task = models.choose_task(models.load_models(configured), None)
    features = open_features(task, configured.lake, reads)
    rows = features.read(task.splits.test, [task.time_column, *reads])
    rows = rows.take(np.random.default_rng(0).choice(rows.num_rows, min(ROWS, rows.num_rows), replace=False))
    headers = {"Authorization": f"Bearer {key}"}
    requests: dict[str, list[str]] = {server: [] for server in SERVERS}
    for row in json.loads(to_json(rows.to_pylist(), inf_nan_mode="null")):
        features_by_name = {name: row[name] for name in reads}
        by_key = {name: row[name] for name in task.key}
        split = {"dataframe_split": {"columns": list(features_by_name), "data": [list(features_by_name.values())]}}
        requests["mlflow"].append(format_request("/invocations", split, {}))
        requests["features"].append(format_request("/predict", {"features": [features_by_name]}, headers))
        with_day = {**by_key, task.time_column: row[task.time_column]}
        requests["keys"].append(format_request("/predict", {"keys": [with_day]}, headers))
        requests["keys_alone"].append(format_request("/predict", {"keys": [by_key]}, headers))
    return requests


@contextmanager
def _run_server(command: Sequence[str], env: dict[str, str], health_path: str) -> Iterator[int]:
    """Run a server, and yield its port as soon as it is healthy."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(
            [*command, str(port)], env={**os.environ, **ENVIRONMENT, **env, "PATH": path}, stdout=log, stderr=log
        )
        try:
            until = time.monotonic() + UP_SECONDS
            while not _is_healthy(f"http://{HOST}:{port}{health_path}"):
                if process.poll() is not None or time.monotonic() > until:
                    text = Path(log.name).read_text()[-2000:]
                    raise RuntimeError(f"{command}: the server did not start. Read its log:\n{text}")
                time.sleep(0.5)
            yield port
        finally:
            process.terminate()
            process.wait(60)


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


Loads = dict[str, dict[str, list[dict[str, float]]]]


def _measure(ports: dict[str, int], requests: dict[str, list[str]], rounds: int, seconds: float) -> Loads:
    """Return the measurements of each round, by server and number of clients."""
    loads: Loads = {server: {str(clients): [] for clients in CLIENTS} for server in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "load.json")
        for _ in range(rounds):
            for clients in CLIENTS:
                for server, port in ports.items():
                    load = {"port": port, "clients": clients, "seconds": seconds, "requests": requests[server]}
                    spec.write_text(json.dumps(load))
                    done = subprocess.run(
                        [sys.executable, "-m", "benchmarks.load", str(spec)],
                        capture_output=True,
                        check=True,
                        text=True,
                        timeout=seconds + 120,
                    )
                    loads[server][str(clients)].append(json.loads(done.stdout))
    return loads


def render_table(loads: Loads) -> str:
    """Return the medians of the rounds as a table in Markdown."""
    lines = ["| clients | | predictions/s | p50 ms | p99 ms | failed | times mlflow |", "|---|---|---|---|---|---|---|"]
    for clients in map(str, CLIENTS):
        theirs = _median(loads["mlflow"][clients])
        for server, name in SERVERS.items():
            ours = _median(loads[server][clients])
            ratio = ours["per_second"] / theirs["per_second"]
            failed = sum(measured["failed"] for measured in loads[server][clients])
            good = ratio >= TARGET and ours["p99_ms"] <= theirs["p99_ms"] and not failed
            verdict = "" if server == "mlflow" else f"{ratio:.1f}{'' if good else ' (**missed**)'}"
            figures = f"{ours['per_second']:,.0f} | {ours['p50_ms']:.1f} | {ours['p99_ms']:.1f} | {failed:.0f}"
            lines.append(f"| {clients} | {name} | {figures} | {verdict} |")
    return "\n".join(lines)


def _median(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {name: median(measured[name] for measured in rounds) for name in rounds[0]}


if __name__ == "__main__":
    main()
