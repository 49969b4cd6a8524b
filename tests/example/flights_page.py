"""The page about flights with its API over a small lake, for tests in a real browser."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import requests
from deltalake import DeltaTable, write_deltalake
from playwright.sync_api import Page, expect
from threadpoolctl import threadpool_limits

from flights.grain import FLIGHT_KEY
from lakehouse import settings as settings_module
from lakehouse.ml import pipeline
from models import trees
from tests.example.departures import features_of, some_flights
from tests.paths import PROJECT
from tests.stack import free_port

LAST = date(2013, 11, 14)


@dataclass(frozen=True)
class Served:
    """Addresses of the API and the page, and the flights of the last day."""

    key: str
    api: str
    page: str
    flights: list[dict[str, Any]]

    def ask(self, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = requests.request("POST" if body else "GET", self.api + path, json=body, headers=headers, timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    def predict(self, kind: str, rows: list[dict[str, Any]]) -> list[float]:
        return [prediction["probability"] for prediction in self.ask("/predict", {kind: rows})["predictions"]]

    def probabilities(self) -> list[float]:
        """Return the API's probabilities for the flights."""
        keys = [{name: flight[name] for name in FLIGHT_KEY} for flight in self.flights]
        return self.predict("keys", [key | {"sched_dep_utc": key["sched_dep_utc"].isoformat()} for key in keys])


@contextmanager
def command(root: Path, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command of the project, yield once it has printed its address, and interrupt it at the end."""
    env = (
        os.environ
        | {"LAKEHOUSE_ROOT": str(root), "LAKEHOUSE_PROJECT": str(PROJECT), "PYTHONPATH": str(PROJECT)}
        | variables
    )
    call = [sys.executable, "-m", "lakehouse.cli.main", *words]
    with subprocess.Popen(
        call, env=env, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        try:
            assert "at http://127.0.0.1:" in line, line + process.stdout.read()
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def flights_at_a_quarter_past_ten() -> pa.Table:
    flights = some_flights()
    at = flights.column_names.index("sched_minute")
    return flights.set_column(at, "sched_minute", pa.array([10 * 60 + 15] * flights.num_rows, pa.int32()))


def make_lake(root: Path) -> None:
    """Write flights late where the aircraft's last leg left late, a model that has learned that, and its quality."""
    features_of(root / "lake", flights_at_a_quarter_past_ten())
    # Smaller trees than the example's: the page shows the predictions of any model.
    with threadpool_limits(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "CANDIDATES", ({"max_iter": 30, "min_samples_leaf": 20},))
        version = pipeline.train(settings_module.load(root=root), "trees").model_version
    days = [LAST - timedelta(n) for n in range(20)]
    daily = [
        {"flight_date": day, "origin": origin, "flights": 300 + n, "cancelled": n % 7, "late_rate": 0.2 + n % 5 / 20}
        for n, day in enumerate(days)
        for origin in ("EWR", "JFK", "LGA")
    ]
    measured = {"labelled": 39, "label_rate": 0.3, "mean_probability": 0.25, "brier": 0.05, "roc_auc": 0.9}
    of_model = {"model_name": "late_arrival", "model_version": version}
    tables = {
        "airport_daily": daily,
        "model_quality": [{"flight_date": day, **of_model, **measured} for day in days]
        + [{"flight_date": day, **of_model, **measured, "model_version": version + 1, "brier": 0.9} for day in days],
    }
    for name, rows in tables.items():
        write_deltalake(root / "lake" / "gold" / name, pa.Table.from_pylist(rows))


@contextmanager
def serving_page(root: Path) -> Iterator[Served]:
    """Run the API and the page over a lake, each in its own process."""
    key, api, page = secrets.token_hex(20), free_port(), free_port()
    rows = DeltaTable(root / "lake" / "gold" / "flight_features").to_pyarrow_table()
    flights = rows.filter(pc.equal(rows["flight_date"], pa.scalar(LAST))).to_pylist()
    env = {"SERVING_API_KEY": key, "SERVING_API_URL": f"http://127.0.0.1:{api}"}
    with command(root, "serve", "--port", str(api), **env), command(root, "app", "--port", str(page), **env):
        yield Served(key, env["SERVING_API_URL"], f"http://127.0.0.1:{page}", flights)


def wait_until_drawn(page: Page, flight: dict[str, Any]) -> str:
    """Wait until the flight is drawn, and return the text of the page."""
    title = f"{flight['carrier']} {flight['flight']} from {flight['origin']} to {flight['dest']}"
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.get_by_role("heading", name="Quality of the model")).to_be_visible()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(5)
    return page.get_by_test_id("stMain").inner_text()


def pick(page: Page, label: str, text: str, option: str) -> None:
    field = page.get_by_role("combobox", name=label)
    expect(field).to_be_visible()
    field.click()
    field.fill(text)
    page.get_by_role("option", name=option).click()
