"""Files of a bucket: a failing store does not make them seem damaged, missing or changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from lakehouse.definitions.sources import source
from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import StorageError
from lakehouse.landing import zone as landing
from lakehouse.landing.reader.conformance import BatchStamp
from lakehouse.landing.reader.staging import stage_files
from lakehouse.landing.reader.task import StagingTask
from lakehouse.storage import location
from lakehouse.storage.s3 import S3Path, get_client
from tests.s3 import Proxy, minio, proxy

ROWS = pa.table({"order": list(range(1000))})


@pytest.fixture(scope="module")
def between(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("s3") / "data"
    with minio(folder) as (endpoint, env), proxy(endpoint) as server, pytest.MonkeyPatch.context() as environment:
        for name, value in {**env, "AWS_ENDPOINT_URL": server.endpoint}.items():
            environment.setenv(name, value)
        get_client().create_bucket(Bucket="lake")
        yield server


@pytest.fixture(autouse=True)
def passing(between: Proxy) -> Iterator[None]:
    yield
    between.rule = lambda method, path: "pass"


@pytest.mark.parametrize("failure", ["slow down", "down"])
def test_a_failing_store_does_not_reject_a_file(between: Proxy, tmp_path: Path, failure: str) -> None:
    orders = source(
        f"bronze.orders_{failure[:4]}",
        landing=f"orders_{failure[:4]}",
        columns={"order": "bigint"},
        format="parquet",
        settle_seconds=0,
    )
    pq.write_table(ROWS, tmp_path / "1.parquet")
    root = S3Path("lake")
    location.put_if_changed(root.joinpath("landing", orders.landing, "1.parquet"), tmp_path / "1.parquet")
    zone = landing.LandingZone(orders, root / "landing", root / "manifests")
    files = zone.list_files()
    reads: list[str] = []

    def fail_from_the_second_read_on(method: str, path: str) -> str:
        reads.extend([path] * (method == "GET" and path.endswith("1.parquet")))
        return failure if len(reads) > 1 and method == "GET" else "pass"

    manifest, stamp = zone.pin_batch(1, "definition", [], files), BatchStamp(1, datetime(2024, 1, 31, tzinfo=UTC))
    between.rule = fail_from_the_second_read_on
    with pytest.raises(StorageError, match=r"the object store at .* \(AWS_ENDPOINT_URL\)"):
        stage_files(StagingTask(orders, manifest.files, root / "landing", stamp), tmp_path)
    assert len(reads) > 1
    between.rule = lambda method, path: "pass"
    (verdict,) = stage_files(StagingTask(orders, manifest.files, root / "landing", stamp), tmp_path).verdicts
    assert (verdict.reason, verdict.row_count) == (None, len(ROWS))


def test_an_unreachable_store_does_not_empty_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = S3Path("lake", "orders")
    with minio(tmp_path / "data") as (_, env):  # no proxy in this process: delta-rs blocks its threads
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        get_client().create_bucket(Bucket="lake")
        options = location.build_delta_options(place)
        for _ in range(2):
            write_deltalake(
                str(place),
                ROWS,
                mode="append",
                storage_options=options,
                configuration={"delta.enableChangeDataFeed": "true"},
            )
        log = open_log(place)
        assert log is not None
        assert len(log.read_net_changed_values("order", 0, 1, [])) == 1000
    for read in (lambda: log.read_net_changed_values("order", 0, 1, []), log.read_entries, lambda: open_log(place)):
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"the object store at .* \(AWS_ENDPOINT_URL\) does not answer"):
            read()
        assert time.monotonic() - began < 60


@pytest.mark.parametrize("size", [10, 20_000_000])
def test_a_failed_upload_names_the_cause(between: Proxy, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    between.rule = lambda method, path: "expired" if method in ("PUT", "POST") else "pass"
    with pytest.raises(StorageError, match="the credentials have expired"):
        location.put_if_changed(S3Path("lake", "file"), tmp_path / "file")


def lose_first(between: Proxy, lost_method: str, part: str) -> None:
    answers = iter(["lose"])
    between.rule = lambda method, path: next(answers, "pass") if method == lost_method and part in path else "pass"


def test_a_lost_answer_does_not_lose_a_creation(between: Proxy) -> None:
    part, target = S3Path("lake", "scratch/part.parquet"), S3Path("lake", "landing/extract.parquet")
    for create in (lambda: location.create(target, b"rows"), lambda: location.move_new(part, target)):
        part.write_bytes(b"rows")
        target.unlink()
        lose_first(between, "PUT", "extract")
        create()
        assert target.read_bytes() == b"rows"
        target.write_bytes(b"another's")
        part.write_bytes(b"rows")
        with pytest.raises(FileExistsError):
            create()
        assert target.read_bytes() == b"another's"


def test_a_large_file_is_sent_in_parts(between: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    file.write_bytes(os.urandom(20_000_000))
    sent: list[int] = []
    between.requests.clear()
    assert location.put_if_changed(S3Path("lake", "landing/large.csv"), file, sent.append)
    assert sum(sent) == 20_000_000
    assert len(sent) > 2
    assert len([1 for method, path, _ in between.requests if method == "PUT" and "partNumber=" in path]) == 3
    assert location.has_same_content(S3Path("lake", "landing/large.csv"), file)
    assert not location.put_if_changed(S3Path("lake", "landing/large.csv"), file), "the file has the same bytes"


def test_a_lookup_lists_only_the_files_own_folder(between: Proxy) -> None:
    for name in ("one/a/1.csv", "one/b/2.csv", "other/3.csv"):
        S3Path("lake", f"zone/{name}").write_bytes(b"x")
    zone = S3Path("lake", "zone")
    between.requests.clear()
    results = location.stat_files(zone, ["one/a/1.csv", "one/b/2.csv", "one/missing.csv"])
    files = [file.path for file in results.values() if isinstance(file, location.FileInfo)]
    assert files == ["one/a/1.csv", "one/b/2.csv"]
    assert isinstance(results["one/missing.csv"], FileNotFoundError)
    assert ["prefix=zone%2Fone%2F" in path for _, path, _ in between.requests] == [True]
    assert isinstance(location.stat_files(zone, ["one/a/1.csv", "other/3.csv"])["other/3.csv"], location.FileInfo)
    assert location.stat_files(zone, []) == {}


def test_a_folders_marker_is_no_file(between: Proxy) -> None:
    for key in ("marked/", "marked/2024/", "marked/2024/1.csv"):  # consoles create folders as empty objects
        get_client().put_object(Bucket="lake", Key=key, Body=b"")
    folder = S3Path("lake", "marked")
    assert [file.path for file in location.walk(folder, lambda name: False)] == ["2024/1.csv"]
    assert location.list_names(folder) == ["2024"]
    location.remove(folder)
    assert not location.is_folder(folder)
