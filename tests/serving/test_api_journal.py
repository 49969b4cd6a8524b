"""What was asked and answered, as the lake has it: all of it, or counted."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from serving.api import journal as journals
from serving.api import metrics
from serving.api.journal import Entry, Journal
from serving.api.lookups import Lookups
from tests.parcels import TASK, Place, parcels
from tests.served import GOOD, ROW, copy_place, make_service, open_client, read_requests


@pytest.fixture
def place(trained_parcels: Place, tmp_path: Path) -> Place:
    return copy_place(trained_parcels, tmp_path)


def test_what_was_asked_and_answered_is_in_the_lake(place: Place) -> None:
    with open_client(make_service(place, flush_seconds=60)) as client:
        asked: list[dict[str, Any]] = [{"features": [ROW, {**ROW, "items": None}]}, {"keys": [{"parcel": 3}]}]
        by_features, by_key = (client.post("/predict", json=body).json() for body in asked)
        client.post("/predict", json={"features": []})
    rows = read_requests(place)
    assert [one["request_id"] for one in rows] == [by_features["request_id"]] * 2 + [by_key["request_id"]]
    assert [one["row"] for one in rows] == [0, 1, 0]
    assert [one["parcel"] for one in rows] == [None, None, 3]
    assert [one["feature_version"] for one in rows] == [None, None, 0]
    assert [one["probability"] for one in rows] == [
        one["probability"] for answer in (by_features, by_key) for one in answer["predictions"]
    ]
    assert [json.loads(one["features"]) for one in rows[:2]] == [ROW, {**ROW, "items": None}]
    told = parcels().slice(3, 1).to_pylist()[0]
    assert json.loads(rows[2]["features"]) == {name: told[name] for name in ROW}
    assert {(one["model_name"], one["model_version"], one["alias"]) for one in rows} == {
        ("late_parcel", GOOD, "champion")
    }
    assert rows[0]["at"].tzinfo is not None
    assert DeltaTable(place.lake / "serving" / "late_parcel_requests").version() == 0, "one commit"


def entry(n: int, rows: int = 1) -> Entry:
    return Entry(f"r{n}", datetime.now(UTC), 1, "champion", ("items",), [(1.0,)] * rows, [0.5] * rows)


def test_a_store_that_fails_is_tried_again_and_what_has_no_room_is_dropped(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journals, "MAX_ROWS", 5)
    monkeypatch.setattr(journals, "RETRY_SECONDS", 0.05)
    blocked = place.lake / "serving"
    blocked.write_text("no folder")
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=0.01)
    dropped = metrics.JOURNAL_DROPPED._value.get()
    journal.begin()
    for n in range(4):
        journal.put(entry(n, rows=2))
        time.sleep(0.1)
    assert "rows wait to be written" in caplog.text
    blocked.unlink()
    journal.close()
    assert [(one["request_id"], one["row"]) for one in read_requests(place)] == [
        ("r0", 0),
        ("r0", 1),
        ("r1", 0),
        ("r1", 1),
    ]
    assert metrics.JOURNAL_DROPPED._value.get() == dropped + 4


def test_a_backlog_is_written_in_parts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "FLUSH_ROWS", 4)
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=60)
    for n in range(5):
        journal.put(entry(n, rows=3))
    journal.begin()
    journal.close()
    commits = [int(one["operationMetrics"]["num_added_rows"]) for one in DeltaTable(journal.path).history()]
    assert commits == [3, 6, 6]
    assert [(one["request_id"], one["row"]) for one in read_requests(place)] == [
        (f"r{n}", m) for n in range(5) for m in range(3)
    ]


def test_a_journal_that_cannot_be_written_at_the_end_is_counted(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journals, "CLOSE_SECONDS", 0.3)
    (place.lake / "serving").write_text("no folder")
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=60)
    journal.begin()
    journal.put(entry(1, rows=3))
    journal.close()
    assert "lacks 3 rows that could not be written in time" in caplog.text
    (place.lake / "serving").unlink()


def test_small_files_are_put_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "COMPACT_COMMITS", 4)
    journal = Journal(Lookups(TASK, place.lake).features, place.lake, flush_seconds=0)
    journal.begin()
    for n in range(6):
        journal.put(entry(n))
        until = time.monotonic() + 20
        while journal._rows and time.monotonic() < until:
            time.sleep(0.01)
    journal.close()
    table = DeltaTable(journal.path)
    assert "OPTIMIZE" in [one["operation"] for one in table.history()]
    assert len(table.file_uris()) <= 3
    assert [one["request_id"] for one in read_requests(place)] == [f"r{n}" for n in range(6)]
