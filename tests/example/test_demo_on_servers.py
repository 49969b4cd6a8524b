"""The demo on MinIO, with the MLflow server: it trains and scores as in a local folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import SECRETS, RunningServers, environment_without_settings, run_command, running_servers

# A machine without MinIO builds it first, once.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServers]:
    with running_servers("minio,postgres,mlflow") as made:
        yield made


def test_the_demo_trains_and_scores_on_servers(running: RunningServers, tmp_path: Path) -> None:
    minio = {
        **environment_without_settings(),
        **running.values,
        "LAKEHOUSE_PROFILE": "minio",
        "LAKEHOUSE_LOG_FOLDER": str(tmp_path / "logs"),
        "LAKEHOUSE_ROOT": "s3://lakehouse/january",
    }
    output = run_command(minio, sys.executable, "-m", "tests.example.january")
    assert "late_arrival version 1" in output
    assert not [key for key in SECRETS if running.values[key] in output]
    count = "select count(*) as n from gold.delay_predictions"
    assert json.loads(run_command(minio, "lakehouse", "sql", count, "--json")) == [{"n": 5144}]
    assert {table["state"] for table in json.loads(run_command(minio, "lakehouse", "status", "--json"))} == {"current"}
    assert {step["action"] for step in json.loads(run_command(minio, "lakehouse", "plan", "--json"))} == {"none"}
    assert len(json.loads(run_command(minio, "lakehouse", "history", "gold.airport_daily", "--json"))) == 2
    assert "gold.flight_features" in run_command(minio, "lakehouse", "tables")
    objects = running.s3(running.values["AWS_SECRET_ACCESS_KEY"]).list_objects_v2(Bucket="mlflow")["Contents"]
    assert [entry["Key"] for entry in objects if entry["Key"].endswith(".skops")]
