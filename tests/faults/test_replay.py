"""Interrupted replays, and rejects with a file or batch that changed meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.write_modes import Append, Merge
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.spark.tables import SparkTables
from lakehouse.errors import AccountingError
from lakehouse.quality import quarantine
from lakehouse.quality.reconciliation import reconcile
from lakehouse.writes.replay import ReplayResult
from tests.lakehouse.writes.test_replay import SMALL, Lakes, outcomes, replayed
from tests.lakes import items_csv, items_table, landed_items


@pytest.mark.parametrize("write", [Append(), Merge(newest_by=("at",))], ids=["Append", "Merge"])
def test_interrupted_replay_duplicates_nothing(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    more = {"key": ()} if isinstance(write, Append) else {}
    strict = make_lake(landed_items, items_table(write, rules=SMALL, **more))
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50"))
    strict.run()
    lake = strict.with_tables(landed_items, items_table(write, **more))
    with monkeypatch.context() as changed:
        changed.setattr("lakehouse.writes.replay._record_outcomes", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            replayed(lake)
    assert lake.rows("clean.items") == [(1, 1, 5), (2, 1, 50)]
    version = lake.version("clean.items")
    assert replayed(lake, run=Run("replay-2", "")).replayed == 1
    assert (lake.rows("clean.items"), lake.version("clean.items")) == ([(1, 1, 5), (2, 1, 50)], (version or 0) + 1)
    assert lake.record("clean.items").rows["written"] == 0
    assert [entry.differences for entry in reconcile(lake.lake)] == [(), ()]
    assert outcomes(lake) == [(1, 2, "replayed", "")]


def test_reject_of_redelivered_file_is_discarded(make_lake: Lakes) -> None:
    source = replace(landed_items, on_redelivery="replace")
    strict = make_lake(source, items_table(rules=SMALL))
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50"))
    strict.run()
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,55", "3,1,7"))
    strict.run()
    assert len(strict.quarantine("clean.items")) == 2, "the first delivery's reject is evidence, too"
    lake = strict.with_tables(source, items_table())
    assert replayed(lake) == ReplayResult("clean.items", 1, {"its file was delivered again without it": 1}, {})
    assert lake.rows("clean.items") == [(1, 1, 5), (2, 1, 55), (3, 1, 7)]


def test_rejects_of_uncommitted_batch_await_its_retry(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = make_lake(landed_items, items_table(rules=SMALL))
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50"))
    strict.run()
    strict.land("raw.items", "2.csv", items_csv("3,1,60", "4,1,6"))
    strict.run("raw.items")
    with monkeypatch.context() as changed:
        changed.setattr(SparkTables, "append", lambda *_: 1 / 0)  # After the rejects are written.
        assert strict.attempt("clean.items").report.has_failed
    assert [row[0] for row in strict.quarantine("clean.items", "batch")] == [1, 2]
    lake = strict.with_tables(landed_items, items_table())
    assert [reject["batch"] for reject in quarantine.find_pending_rejects(lake.lake, "clean.items")] == [1]
    assert [entry.differences for entry in reconcile(lake.lake)] == [(), ()]
    assert replayed(lake) == ReplayResult("clean.items", 1, {}, {})
    assert [row[0] for row in lake.quarantine("clean.items", "batch")] == [1], (
        "the retry of batch 2 finds the other reject again"
    )
    lake.run()
    assert lake.rows("clean.items") == [(1, 1, 5), (2, 1, 50), (3, 1, 60), (4, 1, 6)]
    assert [entry.differences for entry in reconcile(lake.lake)] == [(), ()]


def test_function_that_duplicates_rejects_is_refused(make_lake: Lakes) -> None:
    def duplicate_rows(items: DataFrame) -> DataFrame:
        from tests.lakes import parse_items

        return parse_items(items).withColumn("value", F.explode(F.array("value", "value")))

    strict = make_lake(landed_items, items_table(Append(), key=(), rules=SMALL))
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50"))
    strict.run()
    lake = strict.with_tables(landed_items, items_table(Append(), duplicate_rows, key=()))
    with pytest.raises(AccountingError, match="1 rows came in, but 2 staged = 2"):
        replayed(lake)
    assert lake.rows("clean.items") == [(1, 1, 5)]


def test_interrupted_replay_still_reconciles(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = make_lake(landed_items, items_table(rules=SMALL))
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50", "2,2,60", "3,1,70"))
    strict.run()
    strict.land("raw.items", "2.csv", items_csv("3,2,6"))
    strict.run()
    lake = strict.with_tables(landed_items, items_table())
    with monkeypatch.context() as changed:
        changed.setattr("lakehouse.writes.replay._record_outcomes", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            replayed(lake)
    result = replayed(lake, run=Run("replay-2", ""))
    assert (result.replayed, sum((result.discarded or {}).values())) == (1, 2)
    assert lake.rows("clean.items") == [(1, 1, 5), (2, 2, 60), (3, 2, 6)]
    assert [entry.differences for entry in reconcile(lake.lake)] == [(), ()]
