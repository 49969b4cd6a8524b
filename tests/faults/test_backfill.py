"""Backfills that are interrupted."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from deltalake import DeltaTable

from lakehouse.plan.steps import RunRequest
from lakehouse.writes import executor
from tests.lakehouse.plan.test_backfill import DAYS, RANGE, order
from tests.lakes import TestLake, orders_csv


def test_an_interrupted_backfill_resumes_by_years(filled_days: TestLake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled_days.version("mart.days")
    assert before is not None
    DeltaTable(str(filled_days.lake.get_path("mart.days"))).delete("day <= '2023-12-31'")
    step = filled_days.plan(request=RANGE)["mart.days"]
    assert (len(step.partitions), step.reasons) == (1126, ("backfill",))

    pieces, write_whole = [], executor._write_whole

    def interrupt(work: Any, declared: Any) -> Any:
        pieces.append(work.step.partitions)
        if len(pieces) == 3:
            raise KeyboardInterrupt
        return write_whole(work, declared)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(executor, "_write_whole", interrupt)
        filled_days.attempt("mart.days", request=RANGE, run="cut off")
    assert [partitions[0] for partitions in pieces] == [date(2021, 1, 1), date(2022, 1, 1), date(2023, 1, 1)]
    assert [day.isoformat() for (day,) in filled_days.rows("mart.days", "day")] == [*DAYS[:3], DAYS[4]]

    step = filled_days.plan(request=RANGE)["mart.days"]
    assert (step.partitions[0], step.partitions[-1]) == (date(2023, 1, 1), date(2024, 1, 31))
    assert step.reasons == ("backfill", "730 partitions backfilled already")
    results = filled_days.run(request=RANGE, run="resumed")
    assert results["mart.days"].outcome.partitions == 396  # type: ignore[union-attr]
    assert results.counts("mart.days") == {"written": 2, "quarantined": 0}
    assert [day.isoformat() for (day,) in filled_days.rows("mart.days", "day")] == [*DAYS]
    assert filled_days.record("mart.days").batch == 5
    assert filled_days.run(request=RANGE).statuses["mart.days"] == "unchanged", "nothing is left to backfill"
    earlier = filled_days.run(request=RunRequest(since=date(2020, 1, 1), until=date(2021, 1, 5)))
    assert earlier["mart.days"].outcome.partitions == 366  # type: ignore[union-attr]


def test_an_interrupted_backfill_applies_changes_first(filled_days: TestLake, monkeypatch: pytest.MonkeyPatch) -> None:
    filled_days.land("raw.orders", "2.csv", orders_csv(order(9, "2024-01-01", 5), order(10, "2022-03-01", 1)))
    count, write_whole = [0], executor._write_whole

    def interrupt(work: Any, declared: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return write_whole(work, declared)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(executor, "_write_whole", interrupt)
        filled_days.attempt(request=RANGE)
    filled_days.run()  # Without the range, the changes are applied all the same.
    amounts = dict(filled_days.rows("mart.days"))
    assert (amounts[date(2024, 1, 1)], amounts[date(2022, 3, 1)]) == (10.0, 6.0)
