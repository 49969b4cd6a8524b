"""One result, whatever the profile: January to February in a folder, and on MinIO with Spark's work on the cluster.

The second run is submitted with Spark's page and event log on, and watched: no credential is anywhere to be read.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lakehouse import graph
from lakehouse.s3 import S3Path
from lakehouse.settings import PROJECT
from lakehouse.storage import Location
from tests.servers import SECRETS, Running, free_port, running_servers

# A machine without MinIO builds it first, once.
pytestmark = pytest.mark.timeout(1800)

JANUARY, FEBRUARY = ("--to", "2013-01-31"), ("--from", "2013-02-01", "--to", "2013-02-28")
PROGRAMS = Path(sys.executable).parent
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
    """What others could read of a run while it is under way: command lines, and the pages of the driver."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
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
        while not self._done.wait(0.5):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    self.seen[f"process {hash(line)}"] = line
            for page in ("jobs/", "stages/", "storage/", "environment/", "executors/", "SQL/"):
                self._read(f"/{page}")
            for application in re.findall(r'"id" : "(app-[0-9-]+)"', self._read("/api/v1/applications")):
                for part in ("environment", "jobs", "executors", "sql?details=true&planDescription=true&length=1000"):
                    self._read(f"/api/v1/applications/{application}/{part}")

    def _read(self, path: str) -> str:
        with suppress(URLError, OSError, UnicodeDecodeError), urlopen(self.address + path, timeout=10) as answer:  # noqa: S310
            self.seen[path] = answer.read().decode()
        return self.seen.get(path, "")


def test_the_cluster_on_minio_makes_the_same_tables_and_tells_no_secret(running: Running, tmp_path: Path) -> None:
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("LAKEHOUSE_", "AWS_", "MLFLOW_", "SPARK_", "PYSPARK_"))
    }
    local = {**clean, "LAKEHOUSE_ROOT": str(tmp_path / "local"), "LAKEHOUSE_PROFILE": "local"}
    cluster = {
        **clean,
        **running.values,
        "LAKEHOUSE_PROFILE": "cluster",
        "LAKEHOUSE_LOG_FOLDER": str(tmp_path / "logs"),
    }
    events, port = tmp_path / "events", free_port()
    events.mkdir()
    said = []
    for days in (JANUARY, FEBRUARY):
        run(local, "lakehouse", "land", *days)
        run(local, "lakehouse", "run")
        said.append(run(cluster, "lakehouse", "land", *days))
        if days is JANUARY:
            said.append(run(cluster, "lakehouse", "run"))
    shown = {
        "spark.ui.enabled": "true", "spark.ui.port": str(port),
        "spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri(), "spark.eventLog.compress": "false",
    }  # fmt: skip
    submitted = ("--master", f"spark://127.0.0.1:{running.values['SPARK_MASTER_PORT']}",
                 "--properties-file", "conf/spark/cluster.conf", *[f"--conf={k}={v}" for k, v in shown.items()])  # fmt: skip
    with Watch(port) as watch:
        said.append(run(cluster, "spark-submit", *submitted, "jobs/daily.py"))

    options = {k.lower(): v for k, v in running.values.items() if k.startswith("AWS_")} | {"allow_http": "true"}
    for name in graph.load(["bronze", "silver", "gold"]).declared:
        here = content(tmp_path.joinpath("local", "lake", *name.split(".")), {})
        there = content(S3Path("lakehouse", f"lake/{name.replace('.', '/')}"), options)
        assert here.num_rows > 0
        assert there.equals(here), name

    assert {"/environment/", "/executors/", "/SQL/"} <= {*watch.seen}
    files = [
        *events.rglob("*"),
        *(tmp_path / "logs").rglob("*"),
        *running.folder.glob("spark-*/**/*"),
        *running.folder.glob("logs/*"),
    ]
    read = {
        str(one): one.read_bytes().decode("utf-8", "replace") for one in files if one.is_file() and one.suffix != ".jar"
    }
    assert any(str(events) in name for name in read)
    assert any(name.endswith("/stderr") for name in read), "the executors' logs"
    secrets = {key: running.values[key] for key in SECRETS}
    found = [
        (key, where)
        for where, text in [*watch.seen.items(), *read.items(), *((f"output {n}", one) for n, one in enumerate(said))]
        for key, secret in secrets.items()
        if secret in text
    ]
    assert found == []
