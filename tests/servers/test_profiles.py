"""One result, whatever the profile: January to February in a folder, and on MinIO with Spark's work on the cluster.

The second run is submitted with Spark's page and event log on, and watched: no credential is anywhere to be read.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import psycopg
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lakehouse.definitions import graph
from lakehouse.storage.location import Location
from lakehouse.storage.s3 import S3Path
from tests.paths import PROJECT
from tests.sources import fill
from tests.stack import SECRETS, Running, free_port, running_servers

# A machine without MinIO builds it first, once.
pytestmark = pytest.mark.timeout(1800)

JANUARY, FEBRUARY = ("--to", "2013-01-31"), ("--from", "2013-02-01", "--to", "2013-02-28")
PROGRAMS = Path(sys.executable).parent
# Processes come and go; pages keep what they show, and to draw all of a run's plans takes the driver seconds.
PAGES_TURNS = 10
# Of when a run was, not of what it read.
OF_THE_RUN = {"_ingested_at"}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with running_servers() as made:
        yield made


def run(variables: Mapping[str, str], *command: str) -> str:
    found = {**variables, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=PROJECT, env=found, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def content(place: Location, options: Mapping[str, str]) -> pa.Table:
    """A table's rows, in an order that says nothing of how they were written."""
    table = DeltaTable(str(place), storage_options=dict(options)).to_pyarrow_table()
    kept = sorted(set(table.column_names) - OF_THE_RUN)
    plain = [name for name in kept if not pa.types.is_nested(table.schema.field(name).type)]
    return table.select(kept).sort_by([(name, "ascending") for name in plain])


class Watch:
    """What others could read of a run while it is under way: command lines, and the pages of the driver and the cluster."""

    def __init__(self, port: int, running: Running) -> None:
        self.address = f"http://127.0.0.1:{port}"
        ports = [key for key in running.values if key.startswith("SPARK_") and key.endswith("_UI_PORT")]
        self.cluster = [f"http://127.0.0.1:{running.values[key]}/" for key in ports]
        self.seen: dict[str, str] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        for turn in count():
            if self._done.wait(0.5):
                return
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    self.seen[f"process {hash(line)}"] = line
            if turn % PAGES_TURNS:
                continue
            for page in ("jobs/", "stages/", "storage/", "environment/", "executors/", "SQL/"):
                self._read(f"/{page}")
            for application in re.findall(r'"id" : "(app-[0-9-]+)"', self._read("/api/v1/applications")):
                for part in ("environment", "jobs", "executors", "sql?details=true&planDescription=true&length=1000"):
                    self._read(f"/api/v1/applications/{application}/{part}")
            for page in self.cluster:
                self._read(page)

    def _read(self, path: str) -> str:
        address = path if path.startswith("http") else self.address + path
        with suppress(URLError, OSError, UnicodeDecodeError), urlopen(address, timeout=10) as answer:  # noqa: S310
            self.seen[path] = answer.read().decode()
        return self.seen.get(path, "")


@dataclass(frozen=True)
class Submitted:
    """A job that spark-submit runs on the cluster with Spark's page and event log on; all that others could read of it."""

    running: Running
    folder: Path
    variables: Mapping[str, str]

    def __call__(self, job: str) -> list[tuple[str, str]]:
        """The secrets that can be read somewhere, and where."""
        events, port = self.folder / "events", free_port()
        events.mkdir(exist_ok=True)
        shown = {
            "spark.ui.enabled": "true", "spark.ui.port": str(port),
            "spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri(), "spark.eventLog.compress": "false",
        }  # fmt: skip
        submitted = ("--master", f"spark://127.0.0.1:{self.running.values['SPARK_MASTER_PORT']}",
                     "--properties-file", "conf/spark/cluster.conf", *[f"--conf={k}={v}" for k, v in shown.items()])  # fmt: skip
        with Watch(port, self.running) as watch:
            said = run(self.variables, "spark-submit", *submitted, f"jobs/{job}")
        plans = [text for page, text in watch.seen.items() if "/sql?" in page]
        assert {"/environment/", "/executors/", "/SQL/"} <= {*watch.seen}
        assert any('"planDescription" : "== Physical Plan ==' in text for text in plans)
        assert sum(page.startswith("http") for page in watch.seen) >= 3, "the pages of the master and its workers"
        logs = [
            *(self.folder / "logs").rglob("*"),
            *self.running.folder.glob("spark-*/**/*"),
            *self.running.folder.glob("logs/*"),
        ]
        files = [one for one in [*events.rglob("*"), *logs] if one.is_file() and one.suffix != ".jar"]
        read = {str(one): one.read_bytes().decode("utf-8", "replace") for one in files}
        assert any(str(events) in name for name in read)
        assert any(name.endswith("/stderr") for name in read), "the executors' logs"
        places = {**watch.seen, **read, "output": said}
        return [(key, where) for key in SECRETS for where, text in places.items() if self.running.values[key] in text]


@pytest.fixture
def cluster(running: Running, tmp_path: Path) -> dict[str, str]:
    """The environment of a command on the profile cluster."""
    return {**clean(), **running.values, "LAKEHOUSE_PROFILE": "cluster", "LAKEHOUSE_LOG_FOLDER": str(tmp_path / "logs")}


def clean() -> dict[str, str]:
    return {
        k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "AWS_", "MLFLOW_", "SPARK_", "PYSPARK_"))
    }


def test_the_cluster_on_minio_makes_the_same_tables_and_tells_no_secret(
    running: Running, cluster: dict[str, str], tmp_path: Path
) -> None:
    local = {**clean(), "LAKEHOUSE_ROOT": str(tmp_path / "local"), "LAKEHOUSE_PROFILE": "local"}
    said = []
    for days in (JANUARY, FEBRUARY):
        run(local, "lakehouse", "land", *days)
        run(local, "lakehouse", "run")
        said.append(run(cluster, "lakehouse", "land", *days))
        if days is JANUARY:
            said.append(run(cluster, "lakehouse", "run"))
    assert Submitted(running, tmp_path, cluster)("daily.py") == []
    assert not [key for key in SECRETS for one in said if running.values[key] in one]
    for name in graph.load(["bronze", "silver", "gold"]).declared:
        here = content(tmp_path.joinpath("local", "lake", *name.split(".")), {})
        there = content(S3Path("lakehouse", f"lake/{name.replace('.', '/')}"), options(running))
        assert here.num_rows > 0
        assert there.equals(here), name


def test_sources_in_postgresql_reach_a_lake_on_the_cluster_and_tell_no_secret(
    running: Running, cluster: dict[str, str], tmp_path: Path
) -> None:
    with psycopg.connect(
        host="127.0.0.1", port=running.values["PGPORT"], user=running.values["PGUSER"], password=running.values["PGPASSWORD"],
        dbname="sources", autocommit=True,
    ) as connection:  # fmt: skip
        fill(connection)
        cluster |= {
            "LAKEHOUSE_ROOT": "s3://lakehouse/sources", "TZ": "Europe/Oslo",
            "LAKEHOUSE_DECLARATIONS": '["tests.sources", "silver.airlines", "silver.planes"]', "PYTHONPATH": str(PROJECT),
        }  # fmt: skip
        assert Submitted(running, tmp_path, cluster)("daily.py") == []
        assert "4 unchanged" in run(cluster, "lakehouse", "run")
        connection.execute("UPDATE airlines SET name = 'Renamed', changed = DEFAULT WHERE carrier = '9E'")
        assert "2 written, 2 unchanged" in run(cluster, "lakehouse", "run")
    rows = {
        name: content(S3Path("lakehouse", f"sources/lake/{name.replace('.', '/')}"), options(running)).to_pylist()
        for name in ("bronze.airlines", "bronze.planes", "silver.airlines", "silver.planes")
    }
    assert {name: len(found) for name, found in rows.items()} == {
        "bronze.airlines": 17, "bronze.planes": 3322, "silver.airlines": 16, "silver.planes": 3322,
    }  # fmt: skip
    assert {row["founded_at"] for row in rows["bronze.airlines"]} == {datetime(2013, 3, 31, 2, 30, tzinfo=UTC)}
    assert [row["name"] for row in rows["silver.airlines"] if row["carrier"] == "9E"] == ["Renamed"]


def test_the_demo_on_minio_trains_and_scores_with_the_mlflow_server(running: Running, tmp_path: Path) -> None:
    minio = {
        **clean(), **running.values, "LAKEHOUSE_PROFILE": "minio", "LAKEHOUSE_LOG_FOLDER": str(tmp_path / "logs"),
        "LAKEHOUSE_ROOT": "s3://lakehouse/january", "PYTHONPATH": str(PROJECT),
    }  # fmt: skip
    said = run(minio, sys.executable, "-m", "tests.example.january")
    assert "late_arrival version 1" in said
    scored = json.loads(run(minio, "lakehouse", "sql", "select count(*) as n from gold.delay_predictions", "--json"))
    assert scored == [{"n": 5144}]
    assert {one["state"] for one in json.loads(run(minio, "lakehouse", "status", "--json"))} == {"current"}
    assert {one["action"] for one in json.loads(run(minio, "lakehouse", "plan", "--json"))} == {"none"}
    assert len(json.loads(run(minio, "lakehouse", "history", "gold.airport_daily", "--json"))) == 2
    assert "gold.flight_features" in run(minio, "lakehouse", "tables")
    models = running.s3(running.values["AWS_SECRET_ACCESS_KEY"]).list_objects_v2(Bucket="mlflow")["Contents"]
    assert [one["Key"] for one in models if one["Key"].endswith(".skops")]


def options(running: Running) -> dict[str, str]:
    return {k.lower(): v for k, v in running.values.items() if k.startswith("AWS_")} | {"allow_http": "true"}
