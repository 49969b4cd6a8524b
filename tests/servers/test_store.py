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
from tests.s3 import free_ports, make_client, minio, new_keys, proxy
from tests.stack import skip_missing

pytestmark = pytest.mark.timeout(900)

LANDED = {
    "orders/1.csv": orders_csv(
        "1,10,2024-01-01,2024-01-01 08:00:00,NEW,5", "2,11,2024-01-31,2024-01-31 08:00:00,NEW,-7"
    ).encode(),
    "customers/1.json": json_lines(customer(10, "Ada", "Oslo", "2024-01-01")).encode(),
    "payments/a": payments_file((1, 1, "2024-01-02", 5.0), (2, 2, "2024-01-31", 2.5)),
}
BOUND_SECONDS = 120


@dataclass
class Shop:
    """The orders example in a bucket of a MinIO server that can stop and start again."""

    folder: Path
    keys: dict[str, str]
    port: int
    running: ExitStack
    process: psutil.Process = field(default_factory=psutil.Process)  # the server's, after `start`

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.running.enter_context(minio(self.folder / "minio", self.keys, self.port))
        address = f":{self.port}"
        self.process = next(child for child in psutil.Process().children() if address in command_line(child))

    def stop(self) -> None:
        self.running.pop_all().close()

    def env(self, **others: str) -> dict[str, str]:
        clean = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("LAKEHOUSE_", "AWS_", "MLFLOW_", "SPARK_", "PYSPARK_"))
        }
        store = {**self.keys, "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        settings = {
            "LAKEHOUSE_PROFILE": "minio",
            "LAKEHOUSE_ROOT": "s3://shop",
            "LAKEHOUSE_LOG_FOLDER": str(self.folder / "logs"),
            "LAKEHOUSE_DECLARATIONS": '["tests.orders"]',
            "LAKEHOUSE_MODELS": "{}",
            "MLFLOW_TRACKING_URI": "unused",
            "PYTHONPATH": str(PROJECT),
        }
        return {**clean, **store, **settings, **others}

    def run(self, **others: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("lakehouse")), "run"]
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=self.env(**others),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def fail_run(self, **others: str) -> str:
        """Start a run that must fail in bounded time; return its output. No output or log has a secret."""
        output = await_end(self.run(**others), self.keys)
        secrets = {self.keys["AWS_SECRET_ACCESS_KEY"], {**self.keys, **others}["AWS_SECRET_ACCESS_KEY"]}
        logs = {file: file.read_text() for file in (self.folder / "logs").rglob("*") if file.is_file()}
        assert not [file for file, text in logs.items() if any(secret in text for secret in secrets)]
        return output

    def complete_run(self, **others: str) -> dict[str, int]:
        """Start a run that must succeed; return the row counts of every table."""
        output, _ = (run := self.run(**others)).communicate(timeout=300)
        assert run.returncode == 0, output
        return self.count_rows()

    def count_rows(self) -> dict[str, int]:
        return {name: len(table.to_pyarrow_table()) for name, table in self.tables().items()}

    def count_committed_rows(self) -> dict[str, int]:
        """Return the row counts of the tables that exist."""
        return {name: len(table.to_pyarrow_table()) for name, table in self.tables(DeltaTable.is_deltatable).items()}

    def versions(self) -> dict[str, int]:
        return {name: table.version() for name, table in self.tables().items()}

    def tables(self, is_included: Callable[..., bool] = lambda *_: True) -> dict[str, DeltaTable]:
        options = {**self.keys, "AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true"}
        places = {n: f"s3://shop/lake/{n.replace('.', '/')}" for n in graph.load(["tests.orders"]).declarations}
        return {
            n: DeltaTable(place, storage_options=options) for n, place in places.items() if is_included(place, options)
        }


def command_line(process: psutil.Process) -> str:
    with suppress(psutil.Error):  # the process has ended
        return " ".join(process.cmdline())
    return ""


def await_end(run: subprocess.Popen[str], keys: dict[str, str], *codes: int) -> str:
    began = time.monotonic()
    output, _ = run.communicate(timeout=300)
    assert run.returncode in (codes or (1, 2)), output
    assert time.monotonic() - began < BOUND_SECONDS, output
    assert keys["AWS_SECRET_ACCESS_KEY"] not in output
    assert "Traceback" not in output
    assert "\tat " not in output
    return " ".join(output.split())


@contextmanager
def running_shop(folder: Path) -> Iterator[Shop]:
    (port,) = free_ports(1)
    with ExitStack() as running:
        shop = Shop(folder, new_keys(), port, running)
        shop.start()
        s3 = make_client(shop.endpoint, shop.keys)
        s3.create_bucket(Bucket="shop")
        for name, content in LANDED.items():
            s3.put_object(Bucket="shop", Key=f"landing/{name}", Body=content)
        yield shop
        shop.stop()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with running_shop(tmp_path) as started:
        yield started


COMPLETE = {
    "raw.orders": 2,
    "raw.customers": 1,
    "raw.payments": 2,
    "clean.orders": 1,
    "clean.customers": 1,
    "clean.payments": 2,
}


def test_a_run_survives_a_store_that_stops(shop: Shop) -> None:
    run = shop.run()
    assert run.stdout is not None
    for line in run.stdout:
        if "written" in line:  # a table is committed, others are in progress
            break
    shop.stop()
    failure = f"the object store at {shop.endpoint} (AWS_ENDPOINT_URL) does not answer"
    assert failure in await_end(run, shop.keys)
    assert failure in shop.fail_run()
    shop.start()
    committed = shop.count_committed_rows()
    assert committed
    assert {name: rows for name, rows in COMPLETE.items() if name in committed}.items() <= committed.items()
    rows = shop.complete_run()
    assert {name: rows[name] for name in COMPLETE} == COMPLETE


def test_a_run_ends_if_the_store_hangs(shop: Shop) -> None:
    run = shop.run()
    assert run.stdout is not None
    for line in run.stdout:
        if "written" in line:
            break
    os.kill(shop.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        output, _ = run.communicate(timeout=300)
        assert time.monotonic() - began < BOUND_SECONDS + 30
    finally:
        os.kill(shop.process.pid, signal.SIGCONT)
    assert run.returncode == 1, output
    assert f"the object store at {shop.endpoint} (AWS_ENDPOINT_URL) does not answer" in " ".join(output.split())
    rows = shop.complete_run()
    assert {name: rows[name] for name in COMPLETE} == COMPLETE


def test_a_store_that_ignores_conditions_is_not_written(shop: Shop) -> None:
    with proxy(shop.endpoint) as between:
        between.rule = lambda method, path: "pretend" if method == "PUT" else "pass"
        assert "does not honour If-None-Match" in shop.fail_run(AWS_ENDPOINT_URL=between.endpoint)
    entries = make_client(shop.endpoint, shop.keys).list_objects_v2(Bucket="shop")["Contents"]
    assert {entry["Key"] for entry in entries} == {f"landing/{name}" for name in LANDED}


def test_wrong_credentials_and_a_missing_bucket_are_named(shop: Shop) -> None:
    assert "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID" in shop.fail_run(
        AWS_SECRET_ACCESS_KEY="a-wrong-secret-of-the-test"  # noqa: S106
    )
    assert "AWS_ACCESS_KEY_ID is unknown" in shop.fail_run(AWS_ACCESS_KEY_ID="stranger")
    output = shop.fail_run(LAKEHOUSE_ROOT="s3://nowhere")
    assert "s3://nowhere" in output
    assert "the bucket does not exist. Create it or correct `root`." in output


def test_a_run_retries_then_names_an_overloaded_store(shop: Shop) -> None:
    with proxy(shop.endpoint) as between:
        paths = []

        def overload(method: str, path: str) -> str:
            paths.append(path)
            return "slow down" if "/lake/" in path and len(paths) % 5 == 0 else "pass"

        between.rule = overload
        run = shop.run(AWS_ENDPOINT_URL=between.endpoint)
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
        between.rule = lambda method, path: "slow down" if "/lake/" in path else "pass"
        assert "it is overloaded" in shop.fail_run(AWS_ENDPOINT_URL=between.endpoint)


def test_temporary_credentials_suffice_until_they_expire(shop: Shop) -> None:
    sts = boto3.client(
        "sts",
        endpoint_url=shop.endpoint,
        region_name="us-east-1",
        aws_access_key_id=shop.keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=shop.keys["AWS_SECRET_ACCESS_KEY"],
    )
    role = {"RoleArn": "arn:aws:iam::123456789012:role/any", "RoleSessionName": "tests"}
    credentials = sts.assume_role(**role, DurationSeconds=900)["Credentials"]
    temporary = {
        "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
        "AWS_SESSION_TOKEN": credentials["SessionToken"],
    }
    with proxy(shop.endpoint) as between:
        commits: list[str] = []

        def expire_after_some_commits(method: str, path: str) -> str:
            if method == "PUT" and "/_delta_log/" in path:
                commits.append(path)
            return "expired" if len(commits) > 2 else "pass"

        between.rule = expire_after_some_commits
        output = shop.fail_run(**temporary, AWS_ENDPOINT_URL=between.endpoint)
    assert "the credentials have expired" in output
    assert credentials["SecretAccessKey"] not in output
    assert "AWS_SESSION_TOKEN does not belong" in shop.fail_run(**{**temporary, "AWS_SESSION_TOKEN": "of another"})
    rows = shop.complete_run(**temporary)
    assert {name: rows[name] for name in COMPLETE} == COMPLETE


def test_a_full_disk_of_the_store_is_named(tmp_path: Path) -> None:
    small = tmp_path / "disk"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        skip_missing("no file system can be mounted on this machine")
    try:
        with running_shop(small) as shop:
            ballast = small / "ballast"
            with ballast.open("wb") as file, suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
            failure = f"the object store at {shop.endpoint} (AWS_ENDPOINT_URL) refuses: its disk is full"
            assert failure in shop.fail_run()
            ballast.unlink()
            rows = shop.complete_run()
            assert {name: rows[name] for name in COMPLETE} == COMPLETE
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_run_past_its_lease_duplicates_nothing(shop: Shop) -> None:
    reached, woken = Event(), Event()

    def sleep(method: str, path: str) -> str:
        if method == "PUT" and path.endswith("/clean/payments/_delta_log/00000000000000000000.json"):
            reached.set()
            woken.wait(300)
        return "pass"

    with proxy(shop.endpoint) as between:
        between.rule = sleep
        sleeper = shop.run(AWS_ENDPOINT_URL=between.endpoint)
        assert reached.wait(120)
        os.killpg(sleeper.pid, signal.SIGSTOP)
        try:
            assert "Another run holds the lake" in shop.fail_run()
            # A store's times are whole seconds, so another run waits for longer than the lease.
            time.sleep(lease.LEASE_SECONDS + 2 * lease.CLOCK_TOLERANCE_SECONDS)
            rows, versions = shop.complete_run(), shop.versions()
        finally:
            os.killpg(sleeper.pid, signal.SIGCONT)
            woken.set()
        output = await_end(sleeper, shop.keys, 0, 1)
    assert {name: rows[name] for name in COMPLETE} == COMPLETE
    assert (shop.count_rows(), shop.versions()) == (rows, versions), output
    assert "The lease on the lake expired during this run" in output
    assert set(shop.complete_run().items()) == set(rows.items())
    assert shop.versions() == versions
