"""Tests of the journal: each request is written, or counted as dropped."""

from __future__ import annotations

import json
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from lakehouse.serving.api import journal as journals
from lakehouse.serving.api import metrics
from lakehouse.serving.api.journal import Entry, Journal
from lakehouse.serving.api.lookups import Lookups
from tests.parcels import TASK, Place, parcels
from tests.served import GOOD, ROW, copy_place, make_service, open_client, read_requests


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


def test_requests_and_predictions_are_written_to_the_lake(place: Place) -> None:
    with open_client(make_service(place, flush_seconds=60)) as client:
        bodies: list[dict[str, Any]] = [{"features": [ROW, {**ROW, "items": None}]}, {"keys": [{"parcel": 3}]}]
        by_features, by_key = (client.post("/predict", json=body).json() for body in bodies)
        client.post("/predict", json={"features": []})
    rows = read_requests(place)
    assert [row["request_id"] for row in rows] == [by_features["request_id"]] * 2 + [by_key["request_id"]]
    assert [row["row"] for row in rows] == [0, 1, 0]
    assert [row["parcel"] for row in rows] == [None, None, 3]
    assert [row["feature_version"] for row in rows] == [None, None, 0]
    predictions = [*by_features["predictions"], *by_key["predictions"]]
    assert [row["probability"] for row in rows] == [prediction["probability"] for prediction in predictions]
    assert [json.loads(row["features"]) for row in rows[:2]] == [ROW, {**ROW, "items": None}]
    parcel = parcels().slice(3, 1).to_pylist()[0]
    assert json.loads(rows[2]["features"]) == {name: parcel[name] for name in ROW}
    models = {(row["model_name"], row["model_version"], row["alias"]) for row in rows}
    assert models == {("late_parcel", GOOD, "champion")}
    assert rows[0]["at"].tzinfo is not None
    assert DeltaTable(place.lake / "serving" / "late_parcel_requests").version() == 0, "one commit"


def make_entry(n: int, rows: int = 1) -> Entry:
    return Entry(f"r{n}", datetime.now(UTC), 1, "champion", ("items",), [(1.0,)] * rows, [0.5] * rows)


def test_failed_writes_are_repeated_and_overflow_dropped(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journals, "MAX_ROWS", 5)
    monkeypatch.setattr(journals, "RETRY_SECONDS", 0.05)
    blocker = place.lake / "serving"
    blocker.write_text("no folder")
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=0.01)
    dropped_before = metrics.JOURNAL_DROPPED._value.get()
    journal.begin()
    for n in range(4):
        journal.put(make_entry(n, rows=2))
        time.sleep(0.1)
    assert "rows are not written yet" in caplog.text
    blocker.unlink()
    journal.close()
    rows = [(row["request_id"], row["row"]) for row in read_requests(place)]
    assert rows == [("r0", 0), ("r0", 1), ("r1", 0), ("r1", 1)]
    assert metrics.JOURNAL_DROPPED._value.get() == dropped_before + 4


def test_a_backlog_is_written_in_parts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "FLUSH_ROWS", 4)
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=60)
    for n in range(5):
        journal.put(make_entry(n, rows=3))
    journal.begin()
    journal.close()
    commits = [int(commit["operationMetrics"]["num_added_rows"]) for commit in DeltaTable(journal.path).history()]
    assert commits == [3, 6, 6]
    assert [(row["request_id"], row["row"]) for row in read_requests(place)] == [
        (f"r{n}", m) for n in range(5) for m in range(3)
    ]


def make_text_entry(n: int, text: str, rows: int = 1) -> Entry:
    return Entry(f"r{n}", datetime.now(UTC), 1, "champion", ("shop",), [(text,)] * rows, [0.5] * rows)


def test_memory_of_pending_rows_is_limited(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "MAX_BYTES", 2_500_000)
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=60)
    dropped_before = metrics.JOURNAL_DROPPED._value.get()
    for n in range(4):
        journal.put(make_text_entry(n, "x" * 1_000_000))
    journal.put(make_text_entry(4, "\N{GRINNING FACE}" * 100_000, rows=2))  # four bytes a character, in memory
    journal.put(make_text_entry(5, "small"))
    journal.begin()
    journal.close()
    assert [row["request_id"] for row in read_requests(place)] == ["r0", "r1", "r5"]
    assert metrics.JOURNAL_DROPPED._value.get() == dropped_before + 4
    assert journal._bytes == 0


def test_a_commit_has_limited_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "FLUSH_BYTES", 250_000)
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=60)
    journal.begin()
    for n in range(7):
        journal.put(make_text_entry(n, "x" * 100_000))
    deadline = time.monotonic() + 20
    while journal._bytes > 250_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [row["request_id"] for row in read_requests(place)][:3] == ["r0", "r1", "r2"], "no wait for 60 seconds"
    journal.close()
    rows = [int(commit["operationMetrics"]["num_added_rows"]) for commit in DeltaTable(journal.path).history()]
    assert rows == [1, 3, 3]


@pytest.mark.parametrize("rows", [1, 1000])
def test_an_entry_knows_its_memory(rows: int) -> None:
    def make(n: int) -> Entry:
        values = [(n + row / 7, f"shop {n} {row}" * 3, n * row + 1000, None) for row in range(rows)]
        keys = [(n * row + 2000, datetime(2024, 1, 1, row % 24, tzinfo=UTC)) for row in range(rows)]
        return Entry(f"{n:032x}", datetime.now(UTC), 1, "champion", ("a",), values, [n / 3] * rows, keys)

    tracemalloc.start()
    try:
        entries = [make(n) for n in range(2000 // rows)]
        memory = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 1 <= sum(entry.size for entry in entries) / memory < 2.5


def test_rows_lost_at_the_end_are_counted(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journals, "CLOSE_SECONDS", 0.3)
    (place.lake / "serving").write_text("no folder")
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=60)
    journal.begin()
    journal.put(make_entry(1, rows=3))
    journal.close()
    assert ": 3 rows were lost because they could not be written in time" in caplog.text
    (place.lake / "serving").unlink()


def test_small_files_are_compacted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "COMPACT_COMMITS", 4)
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=0)
    journal.begin()
    for n in range(6):
        journal.put(make_entry(n))
        deadline = time.monotonic() + 20
        while journal._rows and time.monotonic() < deadline:
            time.sleep(0.01)
    journal.close()
    table = DeltaTable(journal.path)
    assert "OPTIMIZE" in [commit["operation"] for commit in table.history()]
    assert len(table.file_uris()) <= 3
    assert [row["request_id"] for row in read_requests(place)] == [f"r{n}" for n in range(6)]
