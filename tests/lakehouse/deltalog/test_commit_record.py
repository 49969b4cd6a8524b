"""Commit records, and the table logs that are read for them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import InputVersion, Record, build_application_id
from lakehouse.errors import LedgerError

SCANNED = table_log.SCAN_LIMITS[1]
RECORD = Record(
    run="r1",
    batch=3,
    generation=2,
    inputs={"raw.items": InputVersion(7, 1)},
    rows={"written": 5},
    revision="abc",
    fingerprint="def",
    committed_at="2024-01-01T00:00:00+00:00",
)
OTHER_METADATA = (
    None,
    "",
    "no json",
    "[]",
    "1",
    "null",
    "{}",
    '{"other": 1}',
    '{"lakehouse": null}',
    '{"lakehouse": "x"}',
    '{"lakehouse": {}}',
)
COLUMN_TYPES = (
    ("a", pa.int32(), "int"),
    ("b", pa.int64(), "bigint"),
    ("c", pa.date32(), "date"),
    ("d", pa.timestamp("us", "UTC"), "timestamp"),
    ("e", pa.decimal128(10, 2), "decimal(10,2)"),
    ("f", pa.list_(pa.string()), "array<string>"),
    ("g", pa.map_(pa.string(), pa.int16()), "map<string,smallint>"),
    ("h", pa.struct([("x", pa.int8())]), "struct<x:tinyint>"),
    ("i", pa.bool_(), "boolean"),
)


def test_a_record_survives_its_commit() -> None:
    assert Record.from_json(RECORD.to_json()) == RECORD


@pytest.mark.parametrize("text", OTHER_METADATA)
def test_metadata_of_other_writers_is_no_record(text: str | None) -> None:
    assert Record.from_json(text) is None


def test_an_unknown_field_is_ignored() -> None:
    record = json.loads(RECORD.to_json())
    record["lakehouse"]["added_later"] = 1
    assert Record.from_json(json.dumps(record)) is not None


@pytest.mark.parametrize(
    ("number", "advice"),
    [(1, "move its folders `lake` and `manifests`"), (3, "Upgrade lakehouse to a version that reads format 3")],
)
def test_a_lake_of_another_format_is_rejected(tmp_path: Path, number: int, advice: str) -> None:
    record = json.loads(RECORD.to_json())
    record["lakehouse"] |= {"format": number}
    commit(tmp_path / "table", 0, json.dumps(record))
    with pytest.raises(LedgerError, match=rf"{tmp_path}/table: .*format {number}; this version reads 2.*{advice}"):
        table_log.read_last_record(tmp_path / "table")


def test_every_generation_has_its_own_application_id() -> None:
    ids = {build_application_id(table, generation) for table in ("a.b", "a.c") for generation in (1, 2)}
    assert len(ids) == 4


def commit(path: Path, value: int, metadata: str | None) -> None:
    properties = CommitProperties(custom_metadata={"userMetadata": metadata} if metadata else None)
    write_deltalake(path, pa.table({"value": [value]}), mode="append", commit_properties=properties)


def test_many_newer_commits_without_a_record(tmp_path: Path) -> None:
    path = tmp_path / "table"
    assert table_log.open_log(path) is None
    commit(path, 0, None)
    assert table_log.read_last_record(path) is None
    commit(path, 1, RECORD.to_json())
    for value in range(SCANNED + 1):
        commit(path, value, None if value else "another writer's metadata")
    log = table_log.open_log(path)
    assert log is not None
    entry = log.last
    assert entry is not None
    assert (entry.version, entry.record) == (1, RECORD)
    assert log.version == SCANNED + 2
    assert (log.count_rows(), log.count_files()) == (SCANNED + 3, SCANNED + 3)
    assert log.read_columns() == {"value": "bigint"}
    assert [entry.version for entry in log.read_entries(2)] == [SCANNED + 2, SCANNED + 1]


def test_column_types_have_spark_sql_names(tmp_path: Path) -> None:
    schema = pa.schema([(name, arrow_type) for name, arrow_type, _ in COLUMN_TYPES])
    write_deltalake(tmp_path / "table", schema.empty_table())
    log = table_log.open_log(tmp_path / "table")
    assert log is not None
    assert log.read_columns() == {name: sql_type for name, _, sql_type in COLUMN_TYPES}
    assert (log.count_rows(), log.count_bytes()) == (0, 0)


def test_a_damaged_log_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "table"
    commit(path, 1, None)
    commit(path, 2, None)
    (path / "_delta_log" / "00000000000000000000.json").unlink()
    with pytest.raises(LedgerError, match="the Delta log cannot be read"):
        table_log.open_log(path)
    (path / "_delta_log" / "00000000000000000001.json").unlink()
    assert table_log.open_log(path) is None or pytest.fail("an empty log is no table")


def test_changed_values_include_old_and_new_images(tmp_path: Path) -> None:
    path = tmp_path / "table"
    feed = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(path, pa.table({"id": [1, 2], "day": ["a", "b"]}), configuration=feed)
    DeltaTable(path).update(updates={"day": "'c'"}, predicate="id = 1")
    DeltaTable(path).delete("id = 2")
    log = table_log.open_log(path)
    assert log is not None
    assert log.read_net_changed_values("day", 0, 1, []) == {"a", "c"}
    assert log.read_net_changed_values("day", 1, 2, []) == {"b"}
    assert log.read_net_changed_values("day", 2, 2, []) == set()
    assert log.has_change_feed()


def test_a_failed_first_write_leaves_no_table(tmp_path: Path) -> None:
    (tmp_path / "_delta_log" / "_staged_commits").mkdir(parents=True)
    assert table_log.open_log(tmp_path) is None
    assert table_log.read_last_record(tmp_path) is None
