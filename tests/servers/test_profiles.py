"""Equal tables on every profile: in a local folder, and on MinIO with Spark's work on the cluster.

Jobs are submitted with Spark's page and event log on. A watcher checks that no secret can be read anywhere.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import psycopg
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lakehouse.catalog import Catalog
from lakehouse.storage.location import Location
from lakehouse.storage.s3 import S3Path
from tests.faults.deliveries import FIRST, SECOND, Delivery, land
from tests.lakes import TestLake
from tests.sources import fill
from tests.stack import SECRETS, RunningServers, environment_without_settings, free_port, run_command, running_servers

# A machine without MinIO builds it first, once.
pytestmark = pytest.mark.timeout(1800)

# Processes are listed in each turn, as they end soon. Pages are read in every tenth: the driver needs seconds for them.
TURNS_PER_PAGE_READ = 10
# Columns with the time and the run of a row's write.
RUN_COLUMNS = {"_ingested_at", "quarantined_at", "run"}


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServers]:
    with running_servers() as servers:
        yield servers


@pytest.fixture
def cluster(running: RunningServers, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a command on the profile cluster."""
    cluster = {"LAKEHOUSE_PROFILE": "cluster", "LAKEHOUSE_LOG_FOLDER": str(tmp_path / "logs"), "LAKEHOUSE_MODELS": "{}"}
    return {**environment_without_settings(), **running.values, **cluster}


def upload(running: RunningServers, bucket: Catalog, delivery: Delivery) -> None:
    """Put a delivery's files into the landing zone of a lake in a bucket."""
    store = running.s3(running.values["AWS_SECRET_ACCESS_KEY"])
    for source, name, content in delivery:
        place = bucket.root.joinpath("landing", source.removeprefix("raw."), name)
        assert isinstance(place, S3Path)
        body = content.encode() if isinstance(content, str) else content
        store.put_object(Bucket=place.bucket, Key=place.key, Body=body)


def read_content(place: Location, options: Mapping[str, str]) -> pa.Table:
    """Return a table's rows in an order that does not depend on how they were written."""
    table = DeltaTable(str(place), storage_options=dict(options)).to_pyarrow_table()
    columns = sorted(set(table.column_names) - RUN_COLUMNS)
    sortable = [name for name in columns if not pa.types.is_nested(table.schema.field(name).type)]
    return table.select(columns).sort_by([(name, "ascending") for name in sortable])


def read_quarantine(place: Location, options: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of a quarantine, in order, with the landed values."""
    rows = [{**row, "original": json.loads(row["original"])} for row in read_content(place, options).to_pylist()]
    for row in rows:
        del row["original"]["_ingested_at"]
    return sorted(rows, key=lambda row: (row["_file_id"], row["_row"]))


class Watcher:
    """Watcher of a run: it records all that others could read.

    These are command lines, and the pages of the driver and the cluster.
    """

    def __init__(self, port: int, running: RunningServers) -> None:
        self.address = f"http://127.0.0.1:{port}"
        ports = [key for key in running.values if key.startswith("SPARK_") and key.endswith("_UI_PORT")]
        self.cluster_pages = [f"http://127.0.0.1:{running.values[key]}/" for key in ports]
        self.texts: dict[str, str] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
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
                    self.texts[f"process {hash(line)}"] = line
            if turn % TURNS_PER_PAGE_READ:
                continue
            for page in ("jobs/", "stages/", "storage/", "environment/", "executors/", "SQL/"):
                self._read(f"/{page}")
            for application in re.findall(r'"id" : "(app-[0-9-]+)"', self._read("/api/v1/applications")):
                for part in ("environment", "jobs", "executors", "sql?details=true&planDescription=true&length=1000"):
                    self._read(f"/api/v1/applications/{application}/{part}")
            for page in self.cluster_pages:
                self._read(page)

    def _read(self, path: str) -> str:
        address = path if path.startswith("http") else self.address + path
        with suppress(URLError, OSError, UnicodeDecodeError), urlopen(address, timeout=10) as answer:  # noqa: S310
            self.texts[path] = answer.read().decode()
        return self.texts.get(path, "")


@dataclass(frozen=True)
class JobSubmitter:
    """Submitter of jobs to the cluster, with Spark's page and event log on."""

    running: RunningServers
    folder: Path
    variables: Mapping[str, str]

    def __call__(self, job: str) -> list[tuple[str, str]]:
        """Run a job and return each secret that others could read, with its place."""
        events, port = self.folder / "events", free_port()
        events.mkdir(exist_ok=True)
        properties = {
            "spark.ui.enabled": "true",
            "spark.ui.port": str(port),
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": events.as_uri(),
            "spark.eventLog.compress": "false",
        }
        options = [f"--conf={name}={value}" for name, value in properties.items()]
        master = f"spark://127.0.0.1:{self.running.values['SPARK_MASTER_PORT']}"
        command = ["spark-submit", "--master", master, "--properties-file", "conf/spark/cluster.conf", *options]
        with Watcher(port, self.running) as watcher:
            output = run_command(self.variables, *command, f"jobs/{job}")
        plans = [text for page, text in watcher.texts.items() if "/sql?" in page]
        assert {"/environment/", "/executors/", "/SQL/"} <= {*watcher.texts}
        assert any('"planDescription" : "== Physical Plan ==' in text for text in plans)
        assert sum(page.startswith("http") for page in watcher.texts) >= 3, "the pages of the master and its workers"
        logs = [
            *(self.folder / "logs").rglob("*"),
            *self.running.folder.glob("spark-*/**/*"),
            *self.running.folder.glob("logs/*"),
        ]
        files = [file for file in [*events.rglob("*"), *logs] if file.is_file() and file.suffix != ".jar"]
        file_texts = {str(file): file.read_bytes().decode("utf-8", "replace") for file in files}
        assert any(str(events) in name for name in file_texts)
        assert any(name.endswith("/stderr") for name in file_texts), "the executors' logs"
        places = {**watcher.texts, **file_texts, "output": output}
        return [(key, place) for key in SECRETS for place, text in places.items() if self.running.values[key] in text]


def test_cluster_and_local_folder_make_equal_tables(
    running: RunningServers, cluster: dict[str, str], shop: Callable[..., TestLake], tmp_path: Path
) -> None:
    local = shop("local")
    bucket = Catalog(local.lake.graph, S3Path("lakehouse", "shop"))
    cluster |= {"LAKEHOUSE_ROOT": str(bucket.root), "LAKEHOUSE_DECLARATIONS": '["tests.orders"]'}

    land(local, FIRST)
    upload(running, bucket, FIRST)
    local.run()
    output = run_command(cluster, "lakehouse", "run")
    assert not [key for key in SECRETS if running.values[key] in output]

    land(local, SECOND)
    upload(running, bucket, SECOND)
    local.run()
    assert JobSubmitter(running, tmp_path, cluster)("daily.py") == []

    for name in local.lake.graph.declarations:
        expected = read_content(local.lake.get_path(name), {})
        assert expected.num_rows > 0, name
        assert read_content(bucket.get_path(name), running.storage_options).equals(expected), name
    expected = read_quarantine(local.lake.get_quarantine_path("clean.orders"), {})
    assert len(expected) == 3
    assert read_quarantine(bucket.get_quarantine_path("clean.orders"), running.storage_options) == expected


def test_database_sources_reach_a_lake_on_the_cluster(
    running: RunningServers, cluster: dict[str, str], tmp_path: Path
) -> None:
    with psycopg.connect(
        host="127.0.0.1",
        port=running.values["PGPORT"],
        user=running.values["PGUSER"],
        password=running.values["PGPASSWORD"],
        dbname="sources",
        autocommit=True,
    ) as connection:
        fill(connection)
        cluster |= {"LAKEHOUSE_ROOT": "s3://lakehouse/sources", "LAKEHOUSE_DECLARATIONS": '["tests.sources"]'}
        cluster["TZ"] = "Europe/Oslo"
        assert JobSubmitter(running, tmp_path, cluster)("daily.py") == []
        assert "4 unchanged" in run_command(cluster, "lakehouse", "run")
        connection.execute("UPDATE suppliers SET name = 'Renamed', changed = DEFAULT WHERE code = 'AB'")
        assert "2 written, 2 unchanged" in run_command(cluster, "lakehouse", "run")
    rows = {
        name: read_content(
            S3Path("lakehouse", f"sources/lake/{name.replace('.', '/')}"), running.storage_options
        ).to_pylist()
        for name in ("raw.suppliers", "raw.products", "clean.suppliers", "clean.products")
    }
    sizes = {name: len(table_rows) for name, table_rows in rows.items()}
    assert sizes == {"raw.suppliers": 5, "raw.products": 5, "clean.suppliers": 4, "clean.products": 5}
    assert {row["founded_at"] for row in rows["raw.suppliers"]} == {datetime(2013, 3, 31, 2, 30, tzinfo=UTC)}
    assert [row["name"] for row in rows["clean.suppliers"] if row["code"] == "AB"] == ["Renamed"]
