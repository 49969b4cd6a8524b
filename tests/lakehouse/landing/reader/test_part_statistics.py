"""Statistics of Parquet files: exact, or left out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.landing.reader.part_statistics import collect_statistics, describe_statistics

VALUES = {
    "number": [3, None, -5],
    "day": [date(2024, 1, 31), date(1, 1, 1), date(9999, 12, 31)],
    "at": [datetime(2024, 1, 31, 1, 2, 3, 456789, tzinfo=UTC)] * 3,
    "ntz": [datetime(2024, 1, 31, 1, 2, 3)] * 3,
    "text": ["b", "a", None],
    "long": ["x" * 100, "y", "z"],
    "double": [1.5, float("nan"), 2.0],
    "empty": pa.nulls(3, pa.int64()),
    "beyond": pa.array([2932897, 0, 1], pa.int32()).cast(pa.date32()),
}


@pytest.fixture(params=["UTC", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the zone of this machine."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_statistics_are_exact_or_left_out(tmp_path: Path) -> None:
    table = pa.table(VALUES)
    pq.write_table(table, tmp_path / "a.parquet")
    statistics = json.loads(
        describe_statistics(3, collect_statistics(pq.read_metadata(tmp_path / "a.parquet")), set(VALUES))
    )
    assert statistics["numRecords"] == 3
    assert statistics["minValues"] == {
        "number": -5,
        "day": "0001-01-01",
        "at": "2024-01-31T01:02:03.456789Z",
        "ntz": "2024-01-31T01:02:03.000000",
        "text": "a",
    }
    assert statistics["maxValues"] == {
        "number": 3,
        "day": "9999-12-31",
        "at": "2024-01-31T01:02:03.456789Z",
        "ntz": "2024-01-31T01:02:03.000000",
        "text": "b",
    }
    nulls = {"number": 1, "day": 0, "at": 0, "ntz": 0, "text": 1, "long": 0, "double": 0, "empty": 3, "beyond": 0}
    assert statistics["nullCount"] == nulls
