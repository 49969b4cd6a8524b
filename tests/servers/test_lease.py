"""The lake's lock in a bucket: a lease that conditional PUTs acquire and renew."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lakehouse.errors import LockError, StorageError
from lakehouse.storage import lease
from lakehouse.storage.lease import Lease, read_holder
from lakehouse.storage.lock import lock_lake
from lakehouse.storage.s3 import S3Path, get_client
from tests.s3 import SERVERS, proxy

HOLD = """
import sys, time
from lakehouse.storage import lease
from lakehouse.storage.lock import lock_lake
from lakehouse.storage.s3 import S3Path
lease.LEASE_SECONDS = float(sys.argv[2])
with lock_lake(S3Path("locks", sys.argv[1]), "the-first-run"):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", params=SERVERS)
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Path]:
    """Create a bucket on each server. The environment of this process and of its children has its address."""
    with (
        SERVERS[request.param](tmp_path_factory.mktemp("s3") / "data") as (_, env),
        pytest.MonkeyPatch.context() as environment,
    ):
        for name, value in env.items():
            environment.setenv(name, value)
        get_client().create_bucket(Bucket="locks")
        yield S3Path("locks")


@pytest.fixture
def root(bucket: S3Path, request: pytest.FixtureRequest) -> S3Path:
    return bucket / request.node.originalname


def start_holder(root: S3Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, root.key, str(seconds)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_killed_local_holder_is_succeeded_at_once(root: S3Path) -> None:
    first = start_holder(root, 60)
    message = rf"run the-first-run, process {first.pid} on .* its lease expires in \d+ s unless that run renews it"
    with pytest.raises(LockError, match=message), lock_lake(root, "second"):
        pass
    first.kill()
    first.wait()
    began = time.monotonic()
    with lock_lake(root, "second"):
        assert read_holder(root / ".run.lock").record["run"] == "second"
    assert time.monotonic() - began < 5
    assert read_holder(root / ".run.lock").record["released"]


def test_only_an_expired_lease_is_succeeded(root: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr("lakehouse.storage.lock._has_ended", lambda record: False)  # as a holder on another machine
    first = start_holder(root, 3)
    with pytest.raises(LockError), lock_lake(root, "second", wait_seconds=5):
        pass
    first.kill()
    first.wait()
    with lock_lake(root, "second", wait_seconds=10):
        pass


def test_a_paused_holder_stops_and_has_smaller_fences(root: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr("lakehouse.storage.lock._has_ended", lambda record: False)
    paused, successor = Lease(), Lease(token=0)  # as on a machine with a slow clock
    with lock_lake(root, "paused", run_lease=paused):
        paused.check()
        fence = paused.issue_fencing_token()
        monkeypatch.setattr(lease, "RENEWALS_PER_LEASE", 1e-3)  # no renewal in time
        others = ExitStack()
        others.enter_context(lock_lake(root, "successor", 20, successor))
        assert successor.issue_fencing_token() > fence
        with pytest.raises(LockError, match="The lease on the lake expired during this run"):
            paused.check()
    with others:
        record = read_holder(root / ".run.lock").record
        assert record["run"] == "successor", "an expired holder must not release its successor's lease"


def test_a_stopped_process_does_not_renew_anothers_lease(root: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.storage.lock._has_ended", lambda record: False)
    first = start_holder(root, 2)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        with lock_lake(root, "second", wait_seconds=10):
            os.kill(first.pid, signal.SIGCONT)
            time.sleep(1.5)
            assert read_holder(root / ".run.lock").record["run"] == "second"
    finally:
        first.kill()
        first.wait()


def test_a_missing_bucket_and_wrong_credentials_are_named(
    bucket: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="the bucket does not exist"), lock_lake(S3Path("nowhere"), "run"):
        pass
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY does not belong"), lock_lake(bucket, "run"):
        pass
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID is unknown"), lock_lake(bucket, "run"):
        pass
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = a-user\naws_secret_access_key = of-this-machine\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(StorageError, match="no credentials"), lock_lake(bucket, "run"):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL_S3: Spark does not read it"), lock_lake(bucket, "run"):
        pass


def test_a_lost_answer_does_not_lose_the_lock(root: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.endpoint)
        losses = {"_probe": 1, ".run.lock": 1}

        def lose(method: str, path: str) -> str:
            target = next((name for name in losses if name in path and method == "PUT" and losses[name]), None)
            if target is None:
                return "pass"
            losses[target] -= 1
            return "lose"

        between.rule = lose
        hold = Lease()
        with lock_lake(root, "run", run_lease=hold):
            losses[".run.lock"] = 1  # of a renewal
            time.sleep(2.5)
            assert not any(losses.values())
            hold.check()
            assert read_holder(root / ".run.lock").record["run"] == "run"
        assert read_holder(root / ".run.lock").record["released"]


def test_an_unreachable_store_is_named_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    began = time.monotonic()
    with (
        pytest.raises(
            StorageError, match=r"the object store at http://127.0.0.1:9 \(AWS_ENDPOINT_URL\) does not answer"
        ),
        lock_lake(S3Path("locks"), "run"),
    ):
        pass
    assert time.monotonic() - began < 30
