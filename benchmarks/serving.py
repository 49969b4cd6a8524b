"""How many predictions a second the API answers, and how long each takes, against `mlflow models serve` of the same version.

`python -m benchmarks.serving` asks the champion of the lake, a folder, that the settings name (`lakehouse train` makes one). Both
servers run all the time and take turns; each answers one row a request. What is asked is kept beside the lake, not in it.
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

from benchmarks.load import HOST, whole
from benchmarks.measure import machine
from lakehouse import settings
from lakehouse.ml import models
from lakehouse.ml.dataset import open_features
from lakehouse.ml.scoring import load_by_alias

CLIENTS = (1, 16, 64)
ROWS = 2_000
UP_SECONDS = 120
TARGET = 3.0
# One thread for each prediction, in both: with as many as cores, all of them wait for each other.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
WHO = {
    "mlflow": "mlflow models serve",
    "features": "API, by features",
    "keys": "API, by key and day",
    "keys_alone": "API, by key",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    given = parser.parse_args()
    configured = settings.load()
    task = models.choose_task(models.load_models(configured), None)
    champion = load_by_alias(task, models.load_models(configured), tracking_uri=configured.tracking_uri)
    key = secrets.token_hex(20)
    requests = _requests(configured, champion.input_columns(), key)
    served = [sys.executable, "-m", "lakehouse.cli.main", "serve", "--port"]
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "--env-manager", "local",
              "--model-uri", f"models:/{task.name}/{champion.version}", "--host", HOST, "--port"]  # fmt: skip
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = task.feature_table.split(".")
        root.joinpath("lake", *table[:-1]).mkdir(parents=True)
        root.joinpath("lake", *table).symlink_to(Path(str(configured.lake.joinpath(*table))).resolve())
        told = {"SERVING_API_KEY": key, "MLFLOW_TRACKING_URI": configured.tracking_uri}
        told |= {"LAKEHOUSE_ROOT": str(root), "LAKEHOUSE_MLFLOW": configured.tracking_uri}
        ports = {"mlflow": stack.enter_context(_running(mlflow, told, "/ping"))}
        api = stack.enter_context(_running(served, told, "/health"))
        ports |= dict.fromkeys(("features", "keys", "keys_alone"), api)
        found = _measure(ports, requests, given.rounds, given.seconds)
    results = {"machine": machine(), "rounds": given.rounds, "seconds": given.seconds, "loads": found}
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    print(page(found))


def _requests(configured: settings.Settings, reads: Sequence[str], key: str) -> dict[str, list[str]]:
    """The same rows, of the days that models are reported on, as each of the two is asked for them."""
    import numpy as np

    task = models.choose_task(models.load_models(configured), None)
    features = open_features(task, configured.lake, reads)
    rows = features.read(task.splits.test, [task.time_column, *reads])
    rows = rows.take(np.random.default_rng(0).choice(rows.num_rows, min(ROWS, rows.num_rows), replace=False))
    shown = {"Authorization": f"Bearer {key}"}
    made: dict[str, list[str]] = {who: [] for who in WHO}
    for row in json.loads(to_json(rows.to_pylist(), inf_nan_mode="null")):
        sent = {name: row[name] for name in reads}
        by_key = {name: row[name] for name in task.key}
        split = {"dataframe_split": {"columns": list(sent), "data": [list(sent.values())]}}
        made["mlflow"].append(whole("/invocations", split, {}))
        made["features"].append(whole("/predict", {"features": [sent]}, shown))
        made["keys"].append(whole("/predict", {"keys": [{**by_key, task.time_column: row[task.time_column]}]}, shown))
        made["keys_alone"].append(whole("/predict", {"keys": [by_key]}, shown))
    return made


@contextmanager
def _running(command: Sequence[str], told: dict[str, str], healthy: str) -> Iterator[int]:
    """A server, from when it is well; gives its port."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(
            [*command, str(port)], env={**os.environ, **ENVIRONMENT, **told, "PATH": path}, stdout=log, stderr=log
        )
        try:
            until = time.monotonic() + UP_SECONDS
            while not _well(f"http://{HOST}:{port}{healthy}"):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{command} is not up: {Path(log.name).read_text()[-2000:]}")
                time.sleep(0.5)
            yield port
        finally:
            process.terminate()
            process.wait(60)


def _well(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


Loads = dict[str, dict[str, list[dict[str, float]]]]


def _measure(ports: dict[str, int], requests: dict[str, list[str]], rounds: int, seconds: float) -> Loads:
    """By who and clients, what each round measured."""
    found: Loads = {who: {str(clients): [] for clients in CLIENTS} for who in WHO}
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "load.json")
        for _ in range(rounds):
            for clients in CLIENTS:
                for who, port in ports.items():
                    what = {"port": port, "clients": clients, "seconds": seconds, "requests": requests[who]}
                    spec.write_text(json.dumps(what))
                    done = subprocess.run(
                        [sys.executable, "-m", "benchmarks.load", str(spec)], capture_output=True, check=True,
                        text=True, timeout=seconds + 120,
                    )  # fmt: skip
                    found[who][str(clients)].append(json.loads(done.stdout))
    return found


def page(found: Loads) -> str:
    """The table, in Markdown: medians of the rounds."""
    lines = ["| clients | | predictions/s | p50 ms | p99 ms | failed | times mlflow |", "|---|---|---|---|---|---|---|"]
    for clients in map(str, CLIENTS):
        theirs = _median(found["mlflow"][clients])
        for who, name in WHO.items():
            ours = _median(found[who][clients])
            ratio = ours["per_second"] / theirs["per_second"]
            failed = sum(one["failed"] for one in found[who][clients])
            good = ratio >= TARGET and ours["p99_ms"] <= theirs["p99_ms"] and not failed
            verdict = "" if who == "mlflow" else f"{ratio:.1f}{'' if good else ' (**missed**)'}"
            figures = f"{ours['per_second']:,.0f} | {ours['p50_ms']:.1f} | {ours['p99_ms']:.1f} | {failed:.0f}"
            lines.append(f"| {clients} | {name} | {figures} | {verdict} |")
    return "\n".join(lines)


def _median(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {name: median(one[name] for one in rounds) for name in rounds[0]}


if __name__ == "__main__":
    main()
