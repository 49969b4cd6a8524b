"""The quarantine after failed attempts at a batch."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame

from lakehouse.definitions.rules import Rule
from lakehouse.engine.spark.tables import SparkTables
from tests.lakehouse.writes.test_rules import Lakes, by_day, clean_dated
from tests.lakes import items_csv, items_table, landed_items


def computes_and_fails(tables: SparkTables, rows: DataFrame, *args: object) -> None:
    """In place of a write: its last step fails."""
    rows.collect()
    raise OSError("the disk is full")


# An error in code that is not the platform's tells its place.
DISK_IS_FULL = f"the disk is full (faults/test_quality.py, line {computes_and_fails.__code__.co_firstlineno + 3})"


def test_a_retry_replaces_what_a_failed_attempt_set_aside(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = make_lake(landed_items, items_table(rules=(Rule("small", "value < 5"), Rule("even", "value % 2 = 0"))))
    strict.land("raw.items", "1.csv", items_csv("1,1,4", "2,1,3", "3,1,8", "4,1,9"))

    with monkeypatch.context() as patched:
        patched.setattr(SparkTables, "overwrite", computes_and_fails)
        assert strict.attempt(run="failing").errors == {"clean.items": DISK_IS_FULL}
    assert strict.quarantine("clean.items", "_row", "run") == [(2, "failing"), (3, "failing"), (4, "failing")]
    lenient = strict.with_tables(landed_items, items_table(rules=(Rule("even", "value % 2 = 0"),)))
    lenient.run(run="retry")
    assert lenient.quarantine("clean.items", "_row", "rules", "run") == [(2, ["even"], "retry"), (4, ["even"], "retry")]
    assert lenient.rows("clean.items", "id") == [(1,), (3,)]

    lenient.land("raw.items", "2.csv", items_csv("5,1,5"))
    lenient.run("raw")
    with monkeypatch.context() as patched:
        patched.setattr(SparkTables, "append", computes_and_fails)
        assert lenient.attempt("clean", run="failing").report.has_failed
    assert len(lenient.quarantine("clean.items")) == 3
    free = strict.with_tables(landed_items, items_table())
    with monkeypatch.context() as patched:  # twice cut off after it cleared what the attempt before had set aside
        patched.setattr(SparkTables, "append", computes_and_fails)
        for _ in range(2):
            assert free.attempt("clean").errors == {"clean.items": DISK_IS_FULL}
    free.run()
    assert [row for (row,) in free.quarantine("clean.items", "batch")] == [1, 1], "nothing of batch 2 is set aside now"
    assert free.rows("clean.items", "id") == [(1,), (3,), (5,)]


def test_a_retry_of_a_whole_table_replaces_what_a_failed_attempt_set_aside(
    make_lake: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = make_lake(landed_items, clean_dated, by_day)
    lake.land("raw.items", "1.csv", items_csv("1,0,-5"))
    lake.run("raw", "clean")

    with monkeypatch.context() as patched:
        patched.setattr(SparkTables, "overwrite", computes_and_fails)
        assert lake.attempt().errors == {"mart.days": DISK_IS_FULL}
    assert len(lake.quarantine("mart.days")) == 1
    lake.land("raw.items", "2.csv", items_csv("1,0,5"))
    lake.run()
    assert len(lake.rows("mart.days")) == 1
    assert lake.quarantine("mart.days") == []
