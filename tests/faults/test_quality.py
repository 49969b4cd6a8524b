"""The quarantine after failed attempts at a batch."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame

from lakehouse.definitions.rules import Rule
from lakehouse.engine.spark.tables import SparkTables
from tests.lakehouse.writes.test_rules import Lakes, by_day, clean_dated
from tests.lakes import items_csv, items_table, landed_items


def compute_and_fail(tables: SparkTables, rows: DataFrame, *args: object) -> None:
    """Fail in the last step of a write."""
    rows.collect()
    raise OSError("the disk is full")


# An error in code outside of the platform names its place.
DISK_IS_FULL = f"the disk is full (faults/test_quality.py, line {compute_and_fail.__code__.co_firstlineno + 3})"


def test_a_retry_replaces_the_quarantine(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = make_lake(landed_items, items_table(rules=(Rule("small", "value < 5"), Rule("even", "value % 2 = 0"))))
    strict.land("raw.items", "1.csv", items_csv("1,1,4", "2,1,3", "3,1,8", "4,1,9"))

    with monkeypatch.context() as patched:
        patched.setattr(SparkTables, "overwrite", compute_and_fail)
        assert strict.attempt(run="failing").errors == {"clean.items": DISK_IS_FULL}
    assert strict.quarantine("clean.items", "_row", "run") == [(2, "failing"), (3, "failing"), (4, "failing")]
    lenient = strict.with_tables(landed_items, items_table(rules=(Rule("even", "value % 2 = 0"),)))
    lenient.run(run="retry")
    assert lenient.quarantine("clean.items", "_row", "rules", "run") == [(2, ["even"], "retry"), (4, ["even"], "retry")]
    assert lenient.rows("clean.items", "id") == [(1,), (3,)]

    lenient.land("raw.items", "2.csv", items_csv("5,1,5"))
    lenient.run("raw")
    with monkeypatch.context() as patched:
        patched.setattr(SparkTables, "append", compute_and_fail)
        assert lenient.attempt("clean", run="failing").report.has_failed
    assert len(lenient.quarantine("clean.items")) == 3
    free = strict.with_tables(landed_items, items_table())
    with monkeypatch.context() as patched:  # Fails twice after the quarantine of the earlier attempt is cleared.
        patched.setattr(SparkTables, "append", compute_and_fail)
        for _ in range(2):
            assert free.attempt("clean").errors == {"clean.items": DISK_IS_FULL}
    free.run()
    assert [row for (row,) in free.quarantine("clean.items", "batch")] == [1, 1], "no row of batch 2 is quarantined"
    assert free.rows("clean.items", "id") == [(1,), (3,), (5,)]


def test_a_retried_rebuild_replaces_the_quarantine(make_lake: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make_lake(landed_items, clean_dated, by_day)
    lake.land("raw.items", "1.csv", items_csv("1,0,-5"))
    lake.run("raw", "clean")

    with monkeypatch.context() as patched:
        patched.setattr(SparkTables, "overwrite", compute_and_fail)
        assert lake.attempt().errors == {"mart.days": DISK_IS_FULL}
    assert len(lake.quarantine("mart.days")) == 1
    lake.land("raw.items", "2.csv", items_csv("1,0,5"))
    lake.run()
    assert len(lake.rows("mart.days")) == 1
    assert lake.quarantine("mart.days") == []
