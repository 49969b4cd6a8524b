"""Digests in a bucket: the store's ETag shows that an object was replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lakes import orders_csv
from tests.paths import PROJECT
from tests.s3 import SERVERS, make_client

BUCKET = "lake"


@dataclass(frozen=True)
class Lake:
    """The orders example in a bucket."""

    client: Any
    variables: dict[str, str]

    def call(self, *arguments: str) -> tuple[int, str]:
        """Run a command. Returns its exit status and its output."""
        command = [sys.executable, "-m", "lakehouse.cli.main", *arguments]
        done = subprocess.run(command, cwd=PROJECT, env=self.variables, capture_output=True, text=True, check=False)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def list_files(self, prefix: str) -> list[str]:
        keys = (entry["Key"] for entry in self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"])
        return [key for key in keys if key.endswith(".parquet")]


@pytest.fixture(params=SERVERS)
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lake]:
    with SERVERS[request.param](tmp_path / "data") as (endpoint, env):
        client = make_client(endpoint, env)
        client.create_bucket(Bucket=BUCKET)
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "AWS_"))}
        variables |= {
            **env,
            "LAKEHOUSE_PROFILE": "minio",
            "LAKEHOUSE_ROOT": f"s3://{BUCKET}",
            "LAKEHOUSE_LOG_FOLDER": str(tmp_path / "logs"),
            "LAKEHOUSE_DECLARATIONS": '["tests.orders"]',
            "LAKEHOUSE_MODELS": "{}",
            "MLFLOW_TRACKING_URI": "unused",
        }
        yield Lake(client, variables)


def test_reconcile_names_a_replaced_object(lake: Lake) -> None:
    for number in (1, 2):
        text = orders_csv(f"{number},10,2024-01-01,2024-01-01 08:00:00,NEW,5")
        lake.client.put_object(Bucket=BUCKET, Key=f"landing/orders/{number}.csv", Body=text.encode())
        assert lake.call("run", "--select", "raw.orders")[0] == 0
    status, output = lake.call("reconcile", "--deep")
    assert status == 0, output
    first, second = lake.list_files("lake/raw/orders/")
    content = lake.client.get_object(Bucket=BUCKET, Key=first)["Body"].read()
    lake.client.put_object(Bucket=BUCKET, Key=first, Body=content[:20] + bytes([content[20] ^ 1]) + content[21:])
    status, output = lake.call("reconcile", "--deep")
    assert status == 1
    name = first.rpartition("/")[2]
    assert f"difference raw.orders has other content in {name} than its commit wrote" in output
    assert second.rpartition("/")[2] not in output
    lake.client.put_object(Bucket=BUCKET, Key=first, Body=content)
    assert lake.call("reconcile", "--deep")[0] == 0
