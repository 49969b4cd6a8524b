"""The lake's lock in a bucket: a lease, taken and kept by conditional PUTs."""

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
from lakehouse.storage.lease import Hold, holder
from lakehouse.storage.lock import run_lock
from lakehouse.storage.s3 import S3Path, client
from tests.s3 import SERVERS, proxy

HOLD = """
import sys, time
from lakehouse.storage import lease
from lakehouse.storage.lock import run_lock
from lakehouse.storage.s3 import S3Path
lease.LEASE_SECONDS = float(sys.argv[2])
with run_lock(S3Path("locks", sys.argv[1]), "the-first-run"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", params=SERVERS)
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Path]:
    """A bucket of each server, reached by this process's environment and its children's."""
    with (
        SERVERS[request.param](tmp_path_factory.mktemp("s3") / "data") as (_, env),
        pytest.MonkeyPatch.context() as changed,
    ):
        for name, value in env.items():
            changed.setenv(name, value)
        client().create_bucket(Bucket="locks")
        yield S3Path("locks")


@pytest.fixture
def root(bucket: S3Path, request: pytest.FixtureRequest) -> S3Path:
    return bucket / request.node.originalname


def held_elsewhere(root: S3Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, root.key, str(seconds)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_leaves_with_the_holders_name_and_takes_over_at_once_when_it_was_killed(root: S3Path) -> None:
    first = held_elsewhere(root, 60)
    said = rf"run the-first-run, process {first.pid} on .* its lease ends in \d+ s"
    with pytest.raises(LockError, match=said), run_lock(root, "second"):
        pass
    first.kill()
    first.wait()
    began = time.monotonic()
    with run_lock(root, "second"):
        assert holder(root / ".run.lock").said["run"] == "second"
    assert time.monotonic() - began < 5
    assert holder(root / ".run.lock").said["released"]


def test_what_is_renewed_is_kept_and_what_runs_out_is_not(root: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr("lakehouse.storage.lock._has_ended", lambda said: False)  # as of a holder on another machine
    first = held_elsewhere(root, 3)
    with pytest.raises(LockError), run_lock(root, "second", wait_seconds=5):
        pass
    first.kill()
    first.wait()
    with run_lock(root, "second", wait_seconds=10):
        pass


def test_a_paused_holder_knows_that_it_lost_the_lake_and_its_numbers_are_smaller(
    root: S3Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr("lakehouse.storage.lock._has_ended", lambda said: False)
    paused, successor = Hold(), Hold(token=0)  # a clock that is behind
    with run_lock(root, "paused", hold=paused):
        paused.check()
        fence = paused.fence()
        monkeypatch.setattr(lease, "RENEWALS", 1e-3)  # no renewal comes in time
        others = ExitStack()
        others.enter_context(run_lock(root, "successor", 20, successor))
        assert successor.fence() > fence
        with pytest.raises(LockError, match="held up for longer than its lease"):
            paused.check()
    with others:
        said = holder(root / ".run.lock").said
        assert said["run"] == "successor", "who lost it does not release another's"


def test_a_stopped_process_finds_its_lease_gone(root: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.storage.lock._has_ended", lambda said: False)
    first = held_elsewhere(root, 2)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        with run_lock(root, "second", wait_seconds=10):
            os.kill(first.pid, signal.SIGCONT)
            time.sleep(1.5)
            assert holder(root / ".run.lock").said["run"] == "second", "who wakes does not renew another's lease"
    finally:
        first.kill()
        first.wait()


def test_a_missing_bucket_and_wrong_credentials_are_told(
    bucket: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="the bucket is not there"), run_lock(S3Path("nowhere"), "one"):
        pass
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY is not the one"), run_lock(bucket, "one"):
        pass
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    with pytest.raises(StorageError, match="does not know AWS_ACCESS_KEY_ID"), run_lock(bucket, "one"):
        pass
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = a-user\naws_secret_access_key = of-this-machine\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(StorageError, match="no credentials"), run_lock(bucket, "one"):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL_S3 is not known to Spark"), run_lock(bucket, "one"):
        pass


def test_a_lock_whose_answer_was_lost_is_still_the_holders(root: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.0)
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as standing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", standing.endpoint)
        lost = {"_probe": 1, ".run.lock": 1}

        def loses(method: str, path: str) -> str:
            of = next((name for name in lost if name in path and method == "PUT" and lost[name]), None)
            if of is None:
                return "pass"
            lost[of] -= 1
            return "lose"

        standing.rule = loses
        hold = Hold()
        with run_lock(root, "one", hold=hold):
            lost[".run.lock"] = 1  # of a renewal
            time.sleep(2.5)
            assert not any(lost.values())
            hold.check()
            assert holder(root / ".run.lock").said["run"] == "one"
        assert holder(root / ".run.lock").said["released"]


def test_a_store_that_is_down_is_told_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    began = time.monotonic()
    with (
        pytest.raises(
            StorageError, match=r"the object store at http://127.0.0.1:9 \(AWS_ENDPOINT_URL\) does not answer"
        ),
        run_lock(S3Path("locks"), "one"),
    ):
        pass
    assert time.monotonic() - began < 30
