"""Runs with a damaged log or another writer's commits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from delta.exceptions import ConcurrentAppendException

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import source
from lakehouse.deltalog import table_log
from lakehouse.engine.spark import engine
from lakehouse.errors import LedgerError
from lakehouse.runs import scheduler
from lakehouse.writes.outcome import Outcome
from lakehouse.writes.table_writer import TableWriter
from tests.lakehouse.runs.test_scheduler import Lakes
from tests.lakes import items_csv, items_table, landed_items


def test_damaged_log_stops_only_its_branch(make_lake: Lakes) -> None:
    other = source("raw.other", landing="other", columns=("a",))
    lake = make_lake(landed_items, items_table(rules=(Rule("any", "true"),)), other)
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    lake.run()
    for file in (lake.lake.get_path("raw.items") / "_delta_log").glob("*.json"):
        file.write_text("no log\n")
    for file in (lake.lake.get_path("raw.items") / "_delta_log").glob("*.crc"):
        file.unlink()
    lake.land("raw.other", "1.csv", "a\n1\n")
    results = lake.attempt()
    assert results.statuses == {"raw.items": "failed", "clean.items": "skipped", "raw.other": "written"}
    assert "Delta log cannot be read" in results.errors["raw.items"]
    with pytest.raises(LedgerError):
        table_log.open_log(lake.lake.get_path("raw.items"))


@pytest.mark.parametrize("conflicts", [0, 3, 4])
def test_conflict_is_retried_three_times_with_jitter(
    make_lake: Lakes, monkeypatch: pytest.MonkeyPatch, conflicts: int
) -> None:
    lake = make_lake(landed_items, items_table())
    lake.land("raw.items", "1.csv", items_csv("1,1,1"))
    lake.run("raw.items")
    waits: list[float] = []
    errors = iter([ConcurrentAppendException("another")] * conflicts)
    execute_step = scheduler.execute_step

    def execute_with_conflicts(work: TableWriter) -> Outcome:
        for error in errors:
            raise error
        return execute_step(work)

    monkeypatch.setattr(scheduler, "execute_step", execute_with_conflicts)
    monkeypatch.setattr(engine, "time", SimpleNamespace(sleep=waits.append))
    decided: list[str] = []
    decide = scheduler.decide_step
    monkeypatch.setattr(
        scheduler, "decide_step", lambda lake, name, request: decided.append(name) or decide(lake, name, request)
    )
    results = lake.attempt("clean.items")
    assert results.statuses == {"clean.items": "written" if conflicts <= 3 else "failed"}
    assert len(decided) == 1 + min(conflicts, 3)
    assert len({*waits}) == len(waits) == min(conflicts, 3)
    assert all(0 <= seconds <= engine.CONFLICT_SECONDS for seconds in waits)
    assert lake.version("clean.items") == (0 if conflicts <= 3 else None)
