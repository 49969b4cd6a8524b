"""The journal of predictions in a bucket."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.storage.location import build_delta_options
from lakehouse.storage.s3 import S3Path, get_client
from serving.api.journal import Entry, Journal
from serving.api.lookups import Lookups
from tests.parcels import TASK, parcels
from tests.s3 import minio


def entry(n: int) -> Entry:
    return Entry(f"r{n}", datetime.now(UTC), 1, "champion", ("items",), [(1.0,)], [0.5])


def test_a_lake_in_a_bucket_is_read_and_written_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with minio(tmp_path / "data") as (_, env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        get_client().create_bucket(Bucket="lake")
        lake = S3Path("lake", "lake")
        path = lake.joinpath("gold", "parcels")
        write_deltalake(str(path), parcels(), storage_options=build_delta_options(path))
        looked_up = Lookups(TASK, lake)
        found, version = looked_up.find([((3,), None), ((4000,), None)], ("items", "shop"))
        told = parcels().slice(3, 1).to_pylist()[0]
        assert (found, version) == ({((3,), None): (told["items"], told["shop"])}, 0)
        journal = Journal(looked_up.features, lake, flush_seconds=0.01)
        journal.begin()
        journal.put(entry(1))
        journal.close()
        written = DeltaTable(str(journal.path), storage_options=build_delta_options(journal.path))
        assert written.to_pyarrow_table()["request_id"].to_pylist() == ["r1"]
