"""A store that fails while it is read: what it fails at is not taken for damaged, gone or changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from lakehouse import landing, storage
from lakehouse.declare import source
from lakehouse.errors import StorageError
from lakehouse.log import open_log
from lakehouse.s3 import S3Path, client
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
    storage.deliver(root.joinpath("landing", orders.landing, "1.parquet"), tmp_path / "1.parquet")
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
        options = storage.delta_options(place)
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
        storage.deliver(S3Path("lake", "file"), tmp_path / "file")
