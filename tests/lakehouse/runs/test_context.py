"""Ids of runs: they sort by time, even if the clock goes back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lakehouse.runs import context
from tests.paths import PROJECT


def create_at(clock: pytest.MonkeyPatch, logs: Path, time: str) -> str:
    """Create a run with its log while the clock shows a time, and return its id."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.fromisoformat(time).replace(tzinfo=UTC)

    clock.setattr(context, "datetime", Clock)
    run = context.create_run(PROJECT, logs)
    (logs / f"{run.id}.log").touch()
    return run.id


def test_run_ids_sort_though_the_clock_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lineage.jsonl", "20991399T000000-abcdef.log", "99991231T235959-abcdef.log", "2099.log"):
        (tmp_path / name).touch()
    times = ("2026-02-28 23:59:59", "2026-02-28 23:59:59", "2026-02-27 10:00:00", "2025-01-01", "2026-03-01 08:00:00")
    ids = [create_at(monkeypatch, tmp_path, time) for time in times]
    assert ids == sorted(ids)
    moments = [run.partition("-")[0] for run in ids]
    assert moments == [
        "20260228T235959",
        "20260301T000000",
        "20260301T000001",
        "20260301T000002",
        "20260301T080000",
    ]


def test_the_first_run_has_the_clocks_time(tmp_path: Path) -> None:
    before, run = datetime.now(UTC), context.create_run(PROJECT, tmp_path / "no folder yet")
    assert f"{before:%Y%m%dT%H%M%S}" <= run.id[:15] <= f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
