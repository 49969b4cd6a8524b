"""Failures of the object store: a run ends in bounded time and names the cause, and the next run completes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import boto3
import psutil
import pytest
from deltalake import DeltaTable

from lakehouse.definitions import graph
from lakehouse.storage import lease
from tests.lakes import customer, json_lines, orders_csv, payments_file
from tests.paths import PROJECT
from tests.s3 import client, free_ports, minio, new_keys, proxy
from tests.stack import absent

pytestmark = pytest.mark.timeout(900)

LANDED = {
    "orders/1.csv": orders_csv("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5", "2,11,2024-01-31,2024-01-31 08:00:00,NEW,-7").encode(),
    "customers/1.json": json_lines(customer(10, "Ada", "Oslo", "2024-01-01")).encode(),
    "payments/a": payments_file((1, 1, "2024-01-02", 5.0), (2, 2, "2024-01-31", 2.5)),
}  # fmt: skip
BOUND_SECONDS = 120


@dataclass
class Shop:
    """The orders example in a bucket of MinIO, which can go away and come back."""

    folder: Path
    keys: dict[str, str]
    port: int
    running: ExitStack
    process: psutil.Process = field(default_factory=psutil.Process)  # the server's, once it is started

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.running.enter_context(minio(self.folder / "minio", self.keys, self.port))
        self.process = next(one for one in psutil.Process().children() if f":{self.port}" in command_line(one))

    def stop(self) -> None:
        self.running.pop_all().close()

    def env(self, **others: str) -> dict[str, str]:
        clean = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("LAKEHOUSE_", "AWS_", "MLFLOW_", "SPARK_", "PYSPARK_"))
        }
        told = {
            **self.keys, "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_TRACKING_URI": "unused",
            "LAKEHOUSE_PROFILE": "minio", "LAKEHOUSE_ROOT": "s3://shop", "LAKEHOUSE_LOG_FOLDER": str(self.folder / "logs"),
            "LAKEHOUSE_DECLARATIONS": '["tests.orders"]', "LAKEHOUSE_MODELS": "{}", "PYTHONPATH": str(PROJECT),
        }  # fmt: skip
        return {**clean, **told, **others}

    def run(self, **others: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("lakehouse")), "run"]
        return subprocess.Popen(
            command, cwd=PROJECT, env=self.env(**others), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def fails(self, **others: str) -> str:
        """What a run says that must fail, in bounded time, and without the secret, which is in no log either."""
        said = ended(self.run(**others), self.keys)
        secrets = {self.keys["AWS_SECRET_ACCESS_KEY"], {**self.keys, **others}["AWS_SECRET_ACCESS_KEY"]}
        logs = {file: file.read_text() for file in (self.folder / "logs").rglob("*") if file.is_file()}
        assert not [file for file, text in logs.items() if any(secret in text for secret in secrets)]
        return said

    def completes(self, **others: str) -> dict[str, int]:
        """The rows of every table after a run that must not fail."""
        said, _ = (run := self.run(**others)).communicate(timeout=300)
        assert run.returncode == 0, said
        return self.rows()

    def rows(self) -> dict[str, int]:
        return {name: len(table.to_pyarrow_table()) for name, table in self.tables().items()}

    def committed(self) -> dict[str, int]:
        """The rows of the tables that there are."""
        return {name: len(table.to_pyarrow_table()) for name, table in self.tables(DeltaTable.is_deltatable).items()}

    def versions(self) -> dict[str, int]:
        return {name: table.version() for name, table in self.tables().items()}

    def tables(self, wanted: Callable[..., bool] = lambda *_: True) -> dict[str, DeltaTable]:
        options = {**self.keys, "AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true"}
        places = {n: f"s3://shop/lake/{n.replace('.', '/')}" for n in graph.load(["tests.orders"]).declared}
        return {n: DeltaTable(place, storage_options=options) for n, place in places.items() if wanted(place, options)}


def command_line(process: psutil.Process) -> str:
    with suppress(psutil.Error):  # it has ended
        return " ".join(process.cmdline())
    return ""


def ended(run: subprocess.Popen[str], keys: dict[str, str], *codes: int) -> str:
    began = time.monotonic()
    said, _ = run.communicate(timeout=300)
    assert run.returncode in (codes or (1, 2)), said
    assert time.monotonic() - began < BOUND_SECONDS, said
    assert keys["AWS_SECRET_ACCESS_KEY"] not in said
    assert "Traceback" not in said
    assert "\tat " not in said
    return " ".join(said.split())


@contextmanager
def standing_shop(folder: Path) -> Iterator[Shop]:
    (port,) = free_ports(1)
    with ExitStack() as running:
        made = Shop(folder, new_keys(), port, running)
        made.start()
        s3 = client(made.endpoint, made.keys)
        s3.create_bucket(Bucket="shop")
        for name, content in LANDED.items():
            s3.put_object(Bucket="shop", Key=f"landing/{name}", Body=content)
        yield made
        made.stop()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with standing_shop(tmp_path) as made:
        yield made


WHOLE = {
    "raw.orders": 2, "raw.customers": 1, "raw.payments": 2, "clean.orders": 1, "clean.customers": 1, "clean.payments": 2,
}  # fmt: skip


def test_minio_that_stops_under_a_run_is_named_and_the_next_run_completes(shop: Shop) -> None:
    run = shop.run()
    assert run.stdout is not None
    for line in run.stdout:
        if "written" in line:  # a table is committed, others are under way
            break
    shop.stop()
    said = ended(run, shop.keys)
    assert f"the object store at {shop.endpoint} (AWS_ENDPOINT_URL) does not answer" in said
    assert f"the object store at {shop.endpoint} (AWS_ENDPOINT_URL) does not answer" in shop.fails()
    shop.start()
    there = shop.committed()
    assert there
    assert {name: rows for name, rows in WHOLE.items() if name in there}.items() <= there.items(), (
        "whole, or not at all"
    )
    rows = shop.completes()
    assert {name: rows[name] for name in WHOLE} == WHOLE


def test_a_store_that_hangs_is_not_waited_for_forever(shop: Shop) -> None:
    run = shop.run()
    assert run.stdout is not None
    for line in run.stdout:
        if "written" in line:
            break
    os.kill(shop.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        said, _ = run.communicate(timeout=300)
        assert time.monotonic() - began < BOUND_SECONDS + 30
    finally:
        os.kill(shop.process.pid, signal.SIGCONT)
    assert run.returncode == 1, said
    assert f"the object store at {shop.endpoint} (AWS_ENDPOINT_URL) does not answer" in " ".join(said.split())
    rows = shop.completes()
    assert {name: rows[name] for name in WHOLE} == WHOLE


def test_a_store_that_ignores_conditions_is_not_written(shop: Shop) -> None:
    with proxy(shop.endpoint) as standing:
        standing.rule = lambda method, path: "pretend" if method == "PUT" else "pass"
        said = shop.fails(AWS_ENDPOINT_URL=standing.endpoint)
    assert "does not honour If-None-Match" in said
    left = client(shop.endpoint, shop.keys).list_objects_v2(Bucket="shop")["Contents"]
    assert {one["Key"] for one in left} == {f"landing/{name}" for name in LANDED}


def test_wrong_credentials_and_a_missing_bucket_are_named(shop: Shop) -> None:
    assert "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID" in shop.fails(
        AWS_SECRET_ACCESS_KEY="a-wrong-secret-of-the-test"  # noqa: S106
    )
    assert "AWS_ACCESS_KEY_ID is unknown" in shop.fails(AWS_ACCESS_KEY_ID="stranger")
    said = shop.fails(LAKEHOUSE_ROOT="s3://nowhere")
    assert "s3://nowhere" in said
    assert "the bucket does not exist. Create it or correct `root`." in said


def test_a_store_that_is_overloaded_is_waited_for_and_then_named(shop: Shop) -> None:
    with proxy(shop.endpoint) as standing:
        asked = []

        def overloaded(method: str, path: str) -> str:
            asked.append(path)
            return "slow down" if "/lake/" in path and len(asked) % 5 == 0 else "pass"

        standing.rule = overloaded
        run = shop.run(AWS_ENDPOINT_URL=standing.endpoint)
        said, _ = run.communicate(timeout=300)
        assert run.returncode == 0, said
        standing.rule = lambda method, path: "slow down" if "/lake/" in path else "pass"
        said = shop.fails(AWS_ENDPOINT_URL=standing.endpoint)
        assert "it is overloaded" in said


def test_temporary_credentials_are_enough_until_they_expire(shop: Shop) -> None:
    sts = boto3.client(
        "sts", endpoint_url=shop.endpoint, region_name="us-east-1", aws_access_key_id=shop.keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=shop.keys["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    role = {"RoleArn": "arn:aws:iam::123456789012:role/any", "RoleSessionName": "tests"}
    given = sts.assume_role(**role, DurationSeconds=900)["Credentials"]
    temporary = {
        "AWS_ACCESS_KEY_ID": given["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
        "AWS_SESSION_TOKEN": given["SessionToken"],
    }  # fmt: skip
    with proxy(shop.endpoint) as standing:
        expired: list[str] = []

        def expires_once_a_table_is_written(method: str, path: str) -> str:
            if method == "PUT" and "/_delta_log/" in path:
                expired.append(path)
            return "expired" if len(expired) > 2 else "pass"

        standing.rule = expires_once_a_table_is_written
        said = shop.fails(**temporary, AWS_ENDPOINT_URL=standing.endpoint)
    assert "the credentials have expired" in said
    assert given["SecretAccessKey"] not in said
    assert "AWS_SESSION_TOKEN does not belong" in shop.fails(**{**temporary, "AWS_SESSION_TOKEN": "of another"})
    rows = shop.completes(**temporary)
    assert {name: rows[name] for name in WHOLE} == WHOLE


def test_a_full_disk_under_the_store_is_named_and_the_next_run_completes(tmp_path: Path) -> None:
    small = tmp_path / "disk"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        absent("no file system can be mounted here")
    try:
        with standing_shop(small) as shop:
            ballast = small / "ballast"
            with ballast.open("wb") as file, suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
            said = shop.fails()
            assert f"the object store at {shop.endpoint} (AWS_ENDPOINT_URL) refuses: its disk is full" in said
            ballast.unlink()
            rows = shop.completes()
            assert {name: rows[name] for name in WHOLE} == WHOLE
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_run_that_sleeps_in_its_commit_past_its_lease_doubles_nothing_when_it_wakes(shop: Shop) -> None:
    reached, wakes = Event(), Event()

    def sleeps(method: str, path: str) -> str:
        if method == "PUT" and path.endswith("/clean/payments/_delta_log/00000000000000000000.json"):
            reached.set()
            wakes.wait(300)
        return "pass"

    with proxy(shop.endpoint) as standing:
        standing.rule = sleeps
        sleeper = shop.run(AWS_ENDPOINT_URL=standing.endpoint)
        assert reached.wait(120)
        os.killpg(sleeper.pid, signal.SIGSTOP)
        try:
            assert "Another run holds the lake" in shop.fails()
            time.sleep(lease.LEASE_SECONDS)
            rows, versions = shop.completes(), shop.versions()
        finally:
            os.killpg(sleeper.pid, signal.SIGCONT)
            wakes.set()
        said = ended(sleeper, shop.keys, 0, 1)
    assert {name: rows[name] for name in WHOLE} == WHOLE
    assert (shop.rows(), shop.versions()) == (rows, versions), said
    assert "The lease on the lake expired during this run" in said
    assert set(shop.completes().items()) == set(rows.items())
    assert shop.versions() == versions
