"""A store that fails while it is read: what it fails at is not taken for damaged, gone or changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from lakehouse.definitions.sources import source
from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import StorageError
from lakehouse.landing import zone as landing
from lakehouse.storage import location
from lakehouse.storage.s3 import S3Path, client
from tests.s3 import Proxy, minio, proxy

ROWS = pa.table({"order": list(range(1000))})


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("s3") / "data"
    with minio(folder) as (endpoint, env), proxy(endpoint) as made, pytest.MonkeyPatch.context() as changed:
        for name, value in {**env, "AWS_ENDPOINT_URL": made.endpoint}.items():
            changed.setenv(name, value)
        client().create_bucket(Bucket="lake")
        yield made


@pytest.fixture(autouse=True)
def well(standing: Proxy) -> Iterator[None]:
    yield
    standing.rule = lambda method, path: "pass"


@pytest.mark.parametrize("how", ["slow down", "down"])
def test_a_file_is_not_rejected_for_what_the_store_does(standing: Proxy, tmp_path: Path, how: str) -> None:
    orders = source(
        f"bronze.orders_{how[:4]}",
        landing=f"orders_{how[:4]}",
        columns={"order": "bigint"},
        format="parquet",
        settle_seconds=0,
    )
    pq.write_table(ROWS, tmp_path / "1.parquet")
    root = S3Path("lake")
    location.deliver(root.joinpath("landing", orders.landing, "1.parquet"), tmp_path / "1.parquet")
    zone = landing.Landing(orders, root / "landing", root / "manifests")
    files = zone.listed()
    seen: list[str] = []

    def fails_from_the_second_time_on(method: str, path: str) -> str:
        seen.extend([path] * (method == "GET" and path.endswith("1.parquet")))
        return how if len(seen) > 1 and method == "GET" else "pass"

    standing.rule = fails_from_the_second_time_on
    with pytest.raises(StorageError, match=r"the object store at .* \(AWS_ENDPOINT_URL\)"):
        zone.write(1, "definition", [], files)
    assert len(seen) > 1
    standing.rule = lambda method, path: "pass"
    assert not zone.history()
    assert [one.path for one in zone.write(1, "definition", [], files).files] == [files[0].path]


def test_changes_that_cannot_be_read_now_are_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = S3Path("lake", "orders")
    with minio(tmp_path / "data") as (_, env):  # no proxy of this process: delta-rs leaves no time to its threads
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        client().create_bucket(Bucket="lake")
        options = location.delta_options(place)
        for _ in range(2):
            write_deltalake(
                str(place),
                ROWS,
                mode="append",
                storage_options=options,
                configuration={"delta.enableChangeDataFeed": "true"},
            )
        opened = open_log(place)
        assert opened is not None
        assert len(opened.changed_values("order", 0, 1)) == 1000
    for asked in (lambda: opened.changed_values("order", 0, 1), opened.entries, lambda: open_log(place)):
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"the object store at .* \(AWS_ENDPOINT_URL\) does not answer"):
            asked()
        assert time.monotonic() - began < 60


@pytest.mark.parametrize("size", [10, 20_000_000])
def test_an_upload_that_fails_is_told(standing: Proxy, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    standing.rule = lambda method, path: "expired" if method in ("PUT", "POST") else "pass"
    with pytest.raises(StorageError, match="the credentials have expired"):
        location.deliver(S3Path("lake", "file"), tmp_path / "file")


def loses_first(standing: Proxy, wanted: str, part: str) -> None:
    answers = iter(["lose"])
    standing.rule = lambda method, path: next(answers, "pass") if method == wanted and part in path else "pass"


def test_what_is_created_once_is_the_writers_own_though_the_answer_was_lost(standing: Proxy) -> None:
    part, target = S3Path("lake", "scratch/part.parquet"), S3Path("lake", "landing/extract.parquet")
    for create in (lambda: location.create(target, b"rows"), lambda: location.move_new(part, target)):
        part.write_bytes(b"rows")
        target.unlink()
        loses_first(standing, "PUT", "extract")
        create()
        assert target.read_bytes() == b"rows"
        target.write_bytes(b"another's")
        part.write_bytes(b"rows")
        with pytest.raises(FileExistsError):
            create()
        assert target.read_bytes() == b"another's"


def test_a_large_file_is_delivered_in_parts_and_its_progress_told(standing: Proxy, tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    file.write_bytes(os.urandom(20_000_000))
    sent: list[int] = []
    standing.requests.clear()
    assert location.deliver(S3Path("lake", "landing/large.csv"), file, sent.append)
    assert sum(sent) == 20_000_000
    assert len(sent) > 2
    assert len([1 for method, path, _ in standing.requests if method == "PUT" and "partNumber=" in path]) == 3
    assert location.same(S3Path("lake", "landing/large.csv"), file)
    assert not location.deliver(S3Path("lake", "landing/large.csv"), file), "the same bytes are there"


def test_files_are_looked_up_below_their_own_folder(standing: Proxy) -> None:
    for name in ("one/a/1.csv", "one/b/2.csv", "other/3.csv"):
        S3Path("lake", f"zone/{name}").write_bytes(b"x")
    zone = S3Path("lake", "zone")
    standing.requests.clear()
    found = location.look_up(zone, ["one/a/1.csv", "one/b/2.csv", "one/gone.csv"])
    assert [path for path, one in found.items() if isinstance(one, OSError)] == ["one/gone.csv"]
    assert {one.path for one in found.values() if isinstance(one, location.Found)} == {"one/a/1.csv", "one/b/2.csv"}
    assert ["prefix=zone%2Fone%2F" in path for _, path, _ in standing.requests] == [True]
    assert isinstance(location.look_up(zone, ["one/a/1.csv", "other/3.csv"])["other/3.csv"], location.Found)
    assert location.look_up(zone, []) == {}
