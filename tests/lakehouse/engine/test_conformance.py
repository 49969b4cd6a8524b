"""Both writers of Delta tables write the same tables: rows, change feed, records, columns and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import Record
from lakehouse.engine.base import Commit, Tables, Target
from lakehouse.engine.deltars.tables import DeltaRsTables
from lakehouse.engine.spark.tables import SparkTables
from lakehouse.errors import LedgerError
from lakehouse.quality.reconciliation import verify_files

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("day", pa.date32()),
        pa.field("note", pa.string()),
        pa.field("more", pa.struct([pa.field("tags", pa.list_(pa.string()), nullable=False)])),
    ]
)
DAY, NEXT = date(2024, 1, 31), date(2024, 2, 1)


@pytest.fixture(params=["spark", "deltars"])
def tables(request: pytest.FixtureRequest, spark: SparkSession) -> Any:
    return SparkTables(spark.newSession()) if request.param == "spark" else DeltaRsTables()


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target("silver.items", tmp_path / "items", ("id", "day"))


def rows(*items: tuple[int, date | None, str | None]) -> pa.Table:
    records = [{"id": i, "day": day, "note": note, "more": {"tags": [note or "-"]}} for i, day, note in items]
    return pa.Table.from_pylist(records, SCHEMA)


def commit(batch: int, run: str = "run", generation: int = 1) -> Commit:
    return Commit("silver.items", Record(run, batch, generation, {}, {"written": 1}, "r", "f", "2024-01-31T00:00:00"))


def content(target: Target) -> list[tuple[Any, ...]]:
    table = DeltaTable(str(target.path)).to_pyarrow_table()
    return sorted(tuple(row.values()) for row in table.select(["id", "day", "note"]).to_pylist())


def changes(target: Target, version: int) -> list[tuple[str, int, str | None]]:
    """Return the change feed of one version: type, id and note."""
    feed = pa.table(DeltaTable(str(target.path)).load_cdf(version, version).read_all())
    return sorted((row["_change_type"], row["id"], row["note"]) for row in feed.to_pylist())


def get_log(target: Target) -> table_log.TableLog:
    log = table_log.open_log(target.path)
    assert log is not None
    return log


def check_nullable(target: Target) -> None:
    """Check that no column or nested field refuses nulls."""
    assert '"nullable":false' not in get_log(target).delta_table.schema().to_json().replace(" ", "")


def write_first(tables: Tables, target: Target) -> None:
    first = rows((1, DAY, "a"), (2, DAY, "b"), (3, NEXT, None))
    tables.append(tables.from_arrow(first), target, commit(1))


def test_an_append_has_record_properties_and_statistics(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    tables.append(tables.from_arrow(rows((4, NEXT, "d"))), target, commit(2))
    assert content(target) == [(1, DAY, "a"), (2, DAY, "b"), (3, NEXT, None), (4, NEXT, "d")]
    assert changes(target, 1) == [("insert", 4, "d")]
    log = get_log(target)
    assert log.last is not None
    assert log.last.record == commit(2).record
    assert log.last.rows_written == 1
    assert log.delta_table.transaction_version("lakehouse/silver.items/1") == 2
    configuration = log.delta_table.metadata().configuration
    assert configuration == target.compose_properties()
    actions = pa.table(log.delta_table.get_add_actions(flatten=True)).to_pylist()
    assert sum(action["num_records"] for action in actions) == 4
    assert {action["min.id"] for action in actions} >= {4}
    assert max(action["max.day"] for action in actions) == NEXT
    assert not any(column.startswith("min.note") for column in actions[0])
    check_nullable(target)
    assert log.measure("day", [(DAY, DAY)])[0] >= 2
    assert verify_files(log).differences == ()


def test_an_overwrite_replaces_rows_and_columns(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), ("day", pa.date32()), ("other", pa.int64())])
    tables.overwrite(tables.from_arrow(pa.table([["x"], [DAY], [1]], schema)), target, commit(2))
    check_nullable(target)
    assert get_log(target).read_entries(1)[0].rows_written == 1
    assert get_log(target).read_columns() == {"id": "string", "day": "date", "other": "bigint"}
    assert DeltaTable(str(target.path)).to_pyarrow_table().to_pylist() == [{"id": "x", "day": DAY, "other": 1}]


def test_a_replace_keeps_the_other_rows(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    tables.replace(tables.from_arrow(rows((9, DAY, "z"))), target, commit(2), "`day` = DATE '2024-01-31'")
    assert content(target) == [(3, NEXT, None), (9, DAY, "z")]
    assert changes(target, 1) == [("delete", 1, "a"), ("delete", 2, "b"), ("insert", 9, "z")]
    check_nullable(target)
    with pytest.raises(Exception, match=r"(?i)partial table overwrite|validation check"):
        tables.replace(tables.from_arrow(rows((7, NEXT, "z"))), target, commit(3), "`day` = DATE '2024-01-31'")
    assert get_log(target).version == 1


def test_a_merge_updates_inserts_and_deletes(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    changed = rows((1, DAY, "new"), (2, DAY, "gone"), (5, NEXT, "e"), (6, NEXT, "never"))
    changed = changed.append_column("_delete", pa.array([False, True, False, True]))
    tables.merge(tables.from_arrow(changed), target, commit(2), ("id",), "t.`day` >= DATE '2024-01-31'", "_delete")
    assert content(target) == [(1, DAY, "new"), (3, NEXT, None), (5, NEXT, "e")]
    assert changes(target, 1) == [
        ("delete", 2, "b"),
        ("insert", 5, "e"),
        ("update_postimage", 1, "new"),
        ("update_preimage", 1, "a"),
    ]
    tables.merge(tables.from_arrow(rows((3, NEXT, "c"))), target, commit(3), ("id",), "", None)
    assert content(target) == [(1, DAY, "new"), (3, NEXT, "c"), (5, NEXT, "e")]


def test_a_replacement_can_add_columns(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    extra = pa.StructArray.from_arrays([pa.array([1])], fields=[pa.field("n", pa.int64(), nullable=False)])
    more = rows((9, DAY, "z")).append_column(pa.field("extra", extra.type, nullable=False), extra)
    predicate = "`day` = DATE '2024-01-31'"
    tables.replace(tables.from_arrow(more), target, commit(2), predicate, can_add_columns=True)
    values = DeltaTable(str(target.path)).to_pyarrow_table().select(["id", "extra"]).to_pylist()
    assert sorted(values, key=lambda row: row["id"]) == [{"id": 3, "extra": None}, {"id": 9, "extra": {"n": 1}}]
    check_nullable(target)


def test_a_table_without_a_change_feed_gets_one(tables: Tables, target: Target) -> None:
    write_first(tables, replace(target, has_change_feed=False))
    assert not get_log(target).has_change_feed()
    tables.prepare(target, {})
    assert get_log(target).has_change_feed()
    tables.append(tables.from_arrow(rows((4, NEXT, "d"))), target, commit(2))
    assert changes(target, 2) == [("insert", 4, "d")]
    tables.prepare(target, {})
    assert get_log(target).version == 2


def test_maps_and_many_columns_are_written_again_and_again(tables: Tables, target: Target) -> None:
    """Three deliveries of 300 columns with maps and nested lists: merged, replaced, and appended to."""
    kind = pa.map_(pa.string(), pa.list_(pa.struct([("n", pa.int64())])))
    wide = {f"c{number}": pa.int64() for number in range(300)}
    schema = pa.schema({"id": pa.int64(), "day": pa.date32(), "attrs": kind, **wide})

    def deliver(*ids: int, delivery: int) -> Any:
        attrs = [[("k", [{"n": delivery}, {"n": None}]), ("none", None)]]
        records = [{"id": i, "day": DAY, "attrs": attrs[0], **dict.fromkeys(wide, delivery)} for i in ids]
        return tables.from_arrow(pa.Table.from_pylist(records, schema))

    tables.append(deliver(1, 2, delivery=1), target, commit(1))
    tables.merge(deliver(2, 3, delivery=2), target, commit(2), ("id",), "", None)
    tables.merge(deliver(3, 4, delivery=3), target, commit(3), ("id",), "", None)
    expected = {1: 1, 2: 2, 3: 3, 4: 3}
    for batch in (4, 5):
        written = DeltaTable(str(target.path)).to_pyarrow_table().sort_by("id").to_pylist()
        assert {row["id"]: row["c299"] for row in written} == expected
        assert {row["id"]: row["attrs"][0][1][0]["n"] for row in written} == expected
        tables.replace(deliver(5, delivery=batch), target, commit(batch), "`day` = DATE '2024-01-31'")
        expected = {5: batch}


def test_added_columns_are_null_in_older_rows(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    tables.prepare(target, {"price": "decimal(10,2)", "tags": "map<string,int>"})
    assert get_log(target).read_columns()["tags"] == "map<string,int>"
    more = rows((4, NEXT, "d")).append_column("extra", pa.array([1.5]))
    tables.append(tables.from_arrow(more), target, commit(2), can_add_columns=True)
    values = DeltaTable(str(target.path)).to_pyarrow_table().select(["id", "price", "extra"]).to_pylist()
    assert sorted(values, key=lambda row: row["id"])[2:] == [
        {"id": 3, "price": None, "extra": None},
        {"id": 4, "price": None, "extra": 1.5},
    ]
    check_nullable(target)


def test_restore_and_empty_keep_the_columns(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    tables.overwrite(tables.from_arrow(pa.table({"id": ["x"], "day": [DAY]})), target, commit(2))
    tables.restore(target, commit(3), 0)
    assert content(target) == [(1, DAY, "a"), (2, DAY, "b"), (3, NEXT, None)]
    tables.append(tables.from_arrow(rows((4, DAY, "d"))), target, commit(4))
    tables.restore(target, commit(5), 2)
    assert content(target) == [(1, DAY, "a"), (2, DAY, "b"), (3, NEXT, None)]
    assert changes(target, 4) == [("delete", 4, "d")]
    tables.empty(target, commit(6))
    assert content(target) == []
    assert changes(target, 5) == [("delete", 1, "a"), ("delete", 2, "b"), ("delete", 3, None)]
    check_nullable(target)
    log = get_log(target)
    assert list(log.read_columns()) == SCHEMA.names
    assert log.last is not None
    assert log.last.record is not None
    assert log.last.record.batch == 6


def test_a_used_batch_number_is_not_written_again(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    for write in (
        lambda: tables.append(tables.from_arrow(rows((8, DAY, "x"))), target, commit(1, "other")),
        lambda: tables.overwrite(tables.from_arrow(rows((8, DAY, "x"))), target, commit(1, "other")),
        lambda: tables.merge(tables.from_arrow(rows((8, DAY, "x"))), target, commit(1, "other"), ("id",), "", None),
        lambda: tables.replace(tables.from_arrow(rows((8, DAY, "x"))), target, commit(1, "other"), "`day` IS NOT NULL"),
    ):
        with pytest.raises(LedgerError, match=r"silver\.items: batch 1 was not committed by this run"):
            write()
    assert content(target) == [(1, DAY, "a"), (2, DAY, "b"), (3, NEXT, None)]


def test_checkpoints_are_written_every_ten_commits(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    for batch in range(2, 13):
        tables.append(tables.from_arrow(rows((batch + 10, DAY, "x"))), target, commit(batch))
    checkpoint = json.loads((Path(str(target.path)) / "_delta_log" / "_last_checkpoint").read_text())
    assert checkpoint["version"] in (9, 10), "delta-rs counts from 1"
    assert len(content(target)) == 14


@pytest.mark.parametrize("is_spark_first", [True, False])
def test_a_table_passes_between_the_writers(spark: SparkSession, target: Target, is_spark_first: bool) -> None:
    """Each writer writes after the other, and both read the changes that the other made."""
    writers: list[Any] = [SparkTables(spark.newSession()), DeltaRsTables()]
    if not is_spark_first:
        writers.reverse()
    day = "`day` = DATE '2024-02-01'"
    writes: list[Callable[[Any, int], None]] = [
        lambda t, n: t.append(t.from_arrow(rows((n, DAY, "a"), (n + 100, NEXT, "b"))), target, commit(n)),
        lambda t, n: t.merge(t.from_arrow(rows((n - 2, DAY, "m"))), target, commit(n), ("id",), "", None),
        lambda t, n: t.replace(t.from_arrow(rows((n, NEXT, "r"))), target, commit(n), day),
        lambda t, n: t.restore(target, commit(n), n - 4),
        lambda t, n: t.empty(target, commit(n)),
        lambda t, n: t.overwrite(t.from_arrow(rows((n, DAY, "o"))), target, commit(n)),
    ]
    batch = 0
    for write in writes:
        for writer in writers:
            batch += 1
            write(writer, batch)
            for reader in writers if batch > 1 else ():
                feed = reader.read_changes(target.path, batch - 2, batch - 1)
                assert list_rows(feed, "_change_type", "id", "note") == changes(target, batch - 1)
        for reader in writers:
            assert list_rows(reader.read_latest(target.path), "id", "day", "note") == content(target)
    assert content(target) == [(12, DAY, "o")]


def list_rows(frame: Any, *columns: str) -> list[tuple[Any, ...]]:
    """Return the sorted rows of an Arrow table or of a frame of Spark."""
    rows = frame.select([*columns])
    return sorted(tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in to_list(rows))


def to_list(rows: Any) -> list[Any]:
    return rows.to_pylist() if isinstance(rows, pa.Table) else rows.collect()
