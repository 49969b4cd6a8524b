"""Journal of predictions in a bucket."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.serving.api.journal import Entry, Journal
from lakehouse.serving.api.lookups import Lookups
from lakehouse.storage.location import build_delta_options
from lakehouse.storage.s3 import S3Path, get_client
from tests.parcels import TASK, parcels
from tests.s3 import minio


def make_entry(number: int) -> Entry:
    return Entry(f"r{number}", datetime.now(UTC), 1, "champion", ("items",), [(1.0,)], [0.5])


def test_lookups_and_journal_work_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with minio(tmp_path / "data") as (_, env):
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        get_client().create_bucket(Bucket="lake")
        lake = S3Path("lake", "lake")
        path = lake.joinpath("gold", "parcels")
        write_deltalake(str(path), parcels(), storage_options=build_delta_options(path))
        lookups = Lookups(TASK, lake)
        rows, version = lookups.find([((3,), None), ((4000,), None)], ("items", "shop"))
        expected = parcels().slice(3, 1).to_pylist()[0]
        assert (rows, version) == ({((3,), None): (expected["items"], expected["shop"])}, 0)
        journal = Journal(lookups.features, lake, flush_seconds=0.01)
        journal.begin()
        journal.put(make_entry(1))
        journal.close()
        table = DeltaTable(str(journal.path), storage_options=build_delta_options(journal.path))
        assert table.to_pyarrow_table()["request_id"].to_pylist() == ["r1"]
