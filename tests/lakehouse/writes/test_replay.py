"""Rejects are replayed through today's code and rules. The outcome of each is recorded, and no evidence is deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import History, Merge, Rebuild
from lakehouse.deltalog.commit_record import Run
from lakehouse.errors import DeclarationError, LedgerError
from lakehouse.quality import quarantine
from lakehouse.quality.reconciliation import reconcile
from lakehouse.spark import parse
from lakehouse.writes.replay import ReplayResult, replay_rejects
from tests.lakes import ITEM_TYPES, TestLake, items_csv, items_table, landed_items, parquet, read_rows

Lakes = Callable[..., TestLake]
SMALL = (Rule("value_is_small", "value < 10"),)


def replayed(lake: TestLake, name: str = "clean.items", *, dry: bool = False, run: Run | None = None) -> ReplayResult:
    return replay_rejects(lake.engine, lake.lake, name, run or Run("replay-1", "revision"), dry_run=dry)


def outcomes(lake: TestLake, name: str = "clean.items") -> list[tuple[Any, ...]]:
    return read_rows(lake.lake.get_outcomes_path(name), ("_file_id", "_row", "outcome", "reason"))


def test_rejects_are_replayed_after_a_rule_changes(make_lake: Lakes) -> None:
    strict = make_lake(landed_items, items_table(rules=SMALL))
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50", "3,1,x", "4,1", "5,1,60"))
    strict.run()
    strict.land("raw.items", "2.csv", items_csv("5,2,6", "1,2,70", "1,3,80"))
    strict.run()
    evidence = strict.quarantine("clean.items")
    assert strict.rows("clean.items") == [(1, 1, 5), (5, 2, 6)]
    (summary,) = quarantine.summarize_quarantines(strict.lake)
    assert (summary.pending, summary.outcomes) == (6, {})
    assert summary.rules == {"value_is_small": 5, "parsed: value": 1, "well_formed": 1}
    pending = quarantine.find_pending_rejects(strict.lake, "clean.items")
    assert [(reject["_source_file"], reject["_row"]) for reject in pending] == [
        *(("items/1.csv", row) for row in (2, 3, 4, 5)),
        *(("items/2.csv", row) for row in (2, 3)),
    ]

    lake = strict.with_tables(landed_items, items_table())
    discarded = {"the table has a newer row of its key": 1, "a newer reject of its key was replayed": 1}
    expected = ReplayResult("clean.items", 2, discarded, {"parsed: value": 1, "well_formed": 1})
    before = lake.version("clean.items")
    assert replayed(lake, dry=True) == expected
    assert (lake.version("clean.items"), lake.lake.get_outcomes_path("clean.items").exists()) == (before, False)

    assert replayed(lake) == expected
    assert lake.rows("clean.items") == [(1, 3, 80), (2, 1, 50), (5, 2, 6)]
    assert outcomes(lake) == [
        (1, 2, "replayed", ""),
        (1, 5, "discarded", "the table has a newer row of its key"),
        (2, 2, "discarded", "a newer reject of its key was replayed"),
        (2, 3, "replayed", ""),
    ]
    assert lake.quarantine("clean.items") == evidence, "the quarantine loses no row"
    record = lake.record("clean.items")
    assert (record.run, record.batch) == ("replay-1", 3)
    assert record.rows == {"replayed": 6, "written": 2, "unchanged": 0, "superseded": 2, "quarantined": 2}
    entry = reconcile(lake.lake)[1]
    assert (entry.row_counts, entry.differences) == ({"kept": 3, "duplicates": 3, "quarantined": 2}, ())
    check_second_replay(lake)


def check_second_replay(lake: TestLake) -> None:
    """Check that a second replay has nothing to do: blocked rejects stay pending, and later runs work."""
    version = lake.version("clean.items")
    assert replayed(lake) == ReplayResult("clean.items", 0, {}, {"parsed: value": 1, "well_formed": 1})
    assert (lake.version("clean.items"), len(outcomes(lake))) == (version, 4)
    assert set(lake.run().statuses.values()) == {"unchanged"}
    lake.land("raw.items", "3.csv", items_csv("2,2,51"))
    assert lake.run().counts("clean.items")["written"] == 1
    assert quarantine.summarize_quarantines(lake.lake)[0].outcomes == {"replayed": 2, "discarded": 2}


def test_corrected_code_parses_earlier_rejects(make_lake: Lakes) -> None:
    def lenient(items: DataFrame) -> DataFrame:
        value = F.coalesce(parse("value", "int"), F.length("value"))
        return items.select(
            parse("id", "bigint").alias("id"), parse("at", "int").alias("at"), value.alias("value"), *ORIGIN_COLUMNS
        )

    lake = make_lake(landed_items, items_table())
    lake.land("raw.items", "1.csv", items_csv("1,1,five", "2,1,5"))
    lake.run()
    fixed = lake.with_tables(landed_items, items_table(function=lenient))
    assert replayed(fixed).replayed == 1
    assert fixed.rows("clean.items") == [(1, 1, 4), (2, 1, 5)]


@table("mart.items", columns=ITEM_TYPES, write=Rebuild(), key=("id",), rules=SMALL, items="clean.items")
def mart(items: DataFrame) -> DataFrame:
    """One row per item."""
    return items.select(*ITEM_TYPES)


def test_replay_rebuilds_a_history_table(make_lake: Lakes) -> None:
    strict = make_lake(landed_items, items_table(History(effective_column="at"), rules=SMALL), mart)
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "1,2,50", "1,3,x"))
    strict.run()
    evidence = strict.quarantine("clean.items")
    assert len(evidence) == 2
    lake = strict.with_tables(landed_items, items_table(History(effective_column="at")))
    assert replayed(lake, dry=True) == ReplayResult("clean.items", 2, is_rebuilt=True)
    assert replayed(lake) == ReplayResult("clean.items", 1, None, {"its rules": 1}, is_rebuilt=True)
    assert lake.rows("clean.items", "value", "is_current") == [(5, False), (50, True)]
    assert all(row in lake.quarantine("clean.items") for row in evidence)
    assert outcomes(lake) == [(1, 2, "replayed", "the table was rebuilt")]
    [summary] = quarantine.summarize_quarantines(lake.lake)
    assert (summary.pending, summary.outcomes) == (1, {"replayed": 1})


def test_replay_names_tables_that_it_cannot_replay(make_lake: Lakes) -> None:
    lake = make_lake(landed_items, items_table())
    with pytest.raises(
        DeclarationError, match=r"'clean.itmes' is not a table with a quarantine. Choose one of clean.items"
    ):
        replayed(lake, "clean.itmes")
    with pytest.raises(DeclarationError, match=r"'raw.items' is not a table with a quarantine"):
        replayed(lake, "raw.items")
    with pytest.raises(LedgerError, match=r"clean.items: the table has not been written yet"):
        replayed(lake)


def test_history_keeps_the_evidence_of_later_passes(make_lake: Lakes) -> None:
    strict = make_lake(landed_items, items_table(History(effective_column="at"), rules=SMALL))
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "1,2,50"))
    strict.run()
    strict.land("raw.items", "2.csv", items_csv("2,1,60"))
    strict.run()
    assert [row[0] for row in strict.quarantine("clean.items", "batch")] == [1, 2], (
        "each reject once, in its first batch"
    )
    lake = strict.with_tables(landed_items, items_table(History(effective_column="at")))
    lake.land("raw.items", "3.csv", items_csv("3,1,7"))
    lake.run()
    assert len(lake.quarantine("clean.items")) == 2
    assert lake.engine.open_tables().read_latest(lake.lake.get_path("clean.items")).count() == 4
    assert quarantine.find_pending_rejects(lake.lake, "clean.items") == [], "the run wrote them"
    assert [entry.differences for entry in reconcile(lake.lake)] == [(), ()]


def test_a_second_violation_makes_a_reject_pending_again(make_lake: Lakes) -> None:
    from dataclasses import replace

    source = replace(landed_items, on_redelivery="replace")
    strict = make_lake(source, items_table(rules=SMALL))
    strict.land("raw.items", "1.csv", items_csv("1,1,5", "2,1,50"))
    strict.run()
    assert replayed(strict.with_tables(source, items_table())).replayed == 1
    assert quarantine.find_pending_rejects(strict.lake, "clean.items") == []
    strict.land("raw.items", "2.csv", items_csv("3,1,6"))
    strict.run()
    strict.land("raw.items", "2.csv", items_csv("3,1,7"))  # the run checks all rows again, by the strict rule
    strict.run()
    assert strict.rows("clean.items") == [(1, 1, 5), (3, 1, 7)]
    pending = quarantine.find_pending_rejects(strict.lake, "clean.items")
    assert [(reject["_file_id"], reject["_row"]) for reject in pending] == [(1, 2)]
    assert [entry.differences for entry in reconcile(strict.lake)] == [(), ()]


def test_replay_adds_columns_and_keeps_microseconds(make_lake: Lakes) -> None:
    from datetime import UTC, datetime

    import pyarrow as pa

    from lakehouse.definitions.sources import source

    times = source(
        "raw.times", landing="times", columns={"id": "bigint", "at": "timestamp", "value": "int"}, format="parquet"
    )
    columns = {"id": "bigint", "at": "timestamp", "value": "int"}

    def clean(more: dict[str, str], rules: Any) -> Any:
        def function(times: DataFrame) -> DataFrame:
            return times.select(*columns, *[F.lit(1).alias(c) for c in more], *ORIGIN_COLUMNS)

        declare = table(
            "clean.times",
            columns={**columns, **more},
            write=Merge(newest_by=("at",)),
            key=("id",),
            rules=rules,
            times="raw.times",
        )
        return declare(function)

    strict = make_lake(times, clean({}, SMALL))
    at = datetime(2024, 1, 1, 12, 0, 0, 123456, UTC)
    types = pa.schema([("id", pa.int64()), ("at", pa.timestamp("us", "UTC")), ("value", pa.int32())])
    strict.land("raw.times", "1.parquet", parquet([(1, at, 5), (2, at, 50)], types))
    strict.run()
    lake = strict.with_tables(times, clean({"extra": "int"}, ()))
    assert replayed(lake, "clean.times", dry=True).replayed == 1
    assert replayed(lake, "clean.times").replayed == 1
    assert lake.rows("clean.times", "id", "at", "value", "extra") == [(1, at, 5, None), (2, at, 50, 1)]
