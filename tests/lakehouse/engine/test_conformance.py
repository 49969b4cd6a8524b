"""Both writers of Delta tables write the same tables: rows, change feed, records, columns and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    assert log.delta_table.transaction_version("lakehouse/silver.items/1") == 2
    configuration = log.delta_table.metadata().configuration
    assert configuration == target.compose_properties()
    actions = pa.table(log.delta_table.get_add_actions(flatten=True)).to_pylist()
    assert sum(action["num_records"] for action in actions) == 4
    assert {action["min.id"] for action in actions} >= {4}
    assert max(action["max.day"] for action in actions) == NEXT
    assert not any(column.startswith("min.note") for column in actions[0])
    assert all(field.nullable for field in pa.schema(log.delta_table.schema()))
    assert '"nullable":false' not in log.delta_table.schema().to_json()
    assert log.measure("day", [(DAY, DAY)])[0] >= 2
    assert verify_files(log).differences == ()


def test_an_overwrite_replaces_rows_and_columns(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    tables.overwrite(tables.from_arrow(pa.table({"id": ["x"], "day": [DAY], "other": [1]})), target, commit(2))
    assert get_log(target).read_columns() == {"id": "string", "day": "date", "other": "bigint"}
    assert DeltaTable(str(target.path)).to_pyarrow_table().to_pylist() == [{"id": "x", "day": DAY, "other": 1}]


def test_a_replace_keeps_the_other_rows(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    tables.replace(tables.from_arrow(rows((9, DAY, "z"))), target, commit(2), "`day` = DATE '2024-01-31'")
    assert content(target) == [(3, NEXT, None), (9, DAY, "z")]
    assert changes(target, 1) == [("delete", 1, "a"), ("delete", 2, "b"), ("insert", 9, "z")]
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


def test_restore_and_empty_keep_the_columns(tables: Tables, target: Target) -> None:
    write_first(tables, target)
    tables.overwrite(tables.from_arrow(pa.table({"id": ["x"], "day": [DAY]})), target, commit(2))
    tables.restore(target, commit(3), 0)
    assert content(target) == [(1, DAY, "a"), (2, DAY, "b"), (3, NEXT, None)]
    tables.empty(target, commit(4))
    assert content(target) == []
    log = get_log(target)
    assert list(log.read_columns()) == SCHEMA.names
    assert log.last is not None
    assert log.last.record is not None
    assert log.last.record.batch == 4


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


def test_a_table_passes_between_the_writers(spark: SparkSession, target: Target) -> None:
    """Each writer appends, merges and replaces after the other, and reads the changes that the other made."""
    writers: list[Any] = [SparkTables(spark.newSession()), DeltaRsTables()]
    writes: list[Callable[[Any, int], None]] = [
        lambda t, n: t.append(t.from_arrow(rows((n, DAY, "a"), (n + 100, NEXT, "b"))), target, commit(n)),
        lambda t, n: t.merge(t.from_arrow(rows((n - 2, DAY, "m"))), target, commit(n), ("id",), "", None),
        lambda t, n: t.replace(t.from_arrow(rows((n, NEXT, "r"))), target, commit(n), "`day` = DATE '2024-02-01'"),
    ]
    batch = 0
    for write in writes:
        for writer in writers:
            batch += 1
            write(writer, batch)
            for reader in writers:
                feed = reader.read_changes(target.path, batch - 2, batch - 1) if batch > 1 else None
                counts = None if feed is None else (feed.count() if hasattr(feed, "count") else feed.num_rows)
                assert counts is None or counts > 0
    assert content(target) == [(1, DAY, "m"), (2, DAY, "m"), (6, NEXT, "r")]
    by_spark = sorted(tuple(row) for row in writers[0].read_latest(target.path).select("id", "day", "note").collect())
    assert by_spark == content(target)
