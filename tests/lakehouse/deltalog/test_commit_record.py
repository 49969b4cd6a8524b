"""Records: what a commit says of itself, and what is no record."""

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
    run="r1", batch=3, generation=2, inputs={"raw.items": InputVersion(7, 1)}, rows={"written": 5}, revision="abc",
    fingerprint="def", committed_at="2024-01-01T00:00:00+00:00",
)  # fmt: skip


def test_a_record_survives_its_commit() -> None:
    assert Record.from_json(RECORD.to_json()) == RECORD


@pytest.mark.parametrize(
    "text",
    [None, "", "no json", "[]", "1", "null", "{}", '{"other": 1}', '{"lakehouse": null}', '{"lakehouse": "x"}', '{"lakehouse": {}}'],
)  # fmt: skip
def test_what_others_wrote_is_no_record(text: str | None) -> None:
    assert Record.from_json(text) is None


def test_a_field_that_a_later_format_adds_does_not_stop_a_reader() -> None:
    said = json.loads(RECORD.to_json())
    said["lakehouse"]["added_later"] = 1
    assert Record.from_json(json.dumps(said)) is not None


@pytest.mark.parametrize(("number", "advice"), [(1, "move its folders `lake` and `manifests`"), (3, "Install that")])
def test_a_lake_of_another_format_is_refused(tmp_path: Path, number: int, advice: str) -> None:
    record = json.loads(RECORD.to_json())
    record["lakehouse"] |= {"format": number}
    commit(tmp_path / "table", 0, json.dumps(record))
    with pytest.raises(LedgerError, match=rf"{tmp_path}/table: .*format {number}; this version reads 2.*{advice}"):
        table_log.read_last_record(tmp_path / "table")


def test_every_generation_has_its_own_fence() -> None:
    ids = {build_application_id(table, generation) for table in ("a.b", "a.c") for generation in (1, 2)}
    assert len(ids) == 4


def commit(path: Path, value: int, metadata: str | None) -> None:
    properties = CommitProperties(custom_metadata={"userMetadata": metadata} if metadata else None)
    write_deltalake(path, pa.table({"value": [value]}), mode="append", commit_properties=properties)


def test_the_last_record_is_found_behind_many_commits_without(tmp_path: Path) -> None:
    path = tmp_path / "table"
    assert table_log.open_log(path) is None
    commit(path, 0, None)
    assert table_log.read_last_record(path) is None
    commit(path, 1, RECORD.to_json())
    for value in range(SCANNED + 1):
        commit(path, value, None if value else "another writer's words")
    opened = table_log.open_log(path)
    assert opened is not None
    entry = opened.last
    assert entry is not None
    assert (entry.version, entry.record) == (1, RECORD)
    assert opened.version == SCANNED + 2
    assert (opened.count_rows(), opened.count_files()) == (SCANNED + 3, SCANNED + 3)
    assert opened.columns() == {"value": "bigint"}
    assert [one.version for one in opened.entries(2)] == [SCANNED + 2, SCANNED + 1]


def test_column_types_are_told_as_spark_says_them(tmp_path: Path) -> None:
    kinds = {
        "a": pa.int32(), "b": pa.int64(), "c": pa.date32(), "d": pa.timestamp("us", "UTC"), "e": pa.decimal128(10, 2),
        "f": pa.list_(pa.string()), "g": pa.map_(pa.string(), pa.int16()), "h": pa.struct([("x", pa.int8())]), "i": pa.bool_(),
    }  # fmt: skip
    write_deltalake(tmp_path / "table", pa.schema(kinds).empty_table())
    opened = table_log.open_log(tmp_path / "table")
    assert opened is not None
    assert opened.columns() == {
        "a": "int", "b": "bigint", "c": "date", "d": "timestamp", "e": "decimal(10,2)", "f": "array<string>",
        "g": "map<string,smallint>", "h": "struct<x:tinyint>", "i": "boolean",
    }  # fmt: skip
    assert (opened.count_rows(), opened.count_bytes()) == (0, 0)


def test_a_damaged_log_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "table"
    commit(path, 1, None)
    commit(path, 2, None)
    (path / "_delta_log" / "00000000000000000000.json").unlink()
    with pytest.raises(LedgerError, match="the Delta log cannot be read"):
        table_log.open_log(path)
    (path / "_delta_log" / "00000000000000000001.json").unlink()
    assert table_log.open_log(path) is None or pytest.fail("an empty log is no table")


def test_changed_values_are_those_of_every_image(tmp_path: Path) -> None:
    path = tmp_path / "table"
    feed = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(path, pa.table({"id": [1, 2], "day": ["a", "b"]}), configuration=feed)
    DeltaTable(path).update(updates={"day": "'c'"}, predicate="id = 1")
    DeltaTable(path).delete("id = 2")
    opened = table_log.open_log(path)
    assert opened is not None
    assert opened.read_changed_values("day", 0, 1) == {"a", "c"}
    assert opened.read_changed_values("day", 1, 2) == {"b"}
    assert opened.read_changed_values("day", 2, 2) == set()
    assert opened.has_change_feed()


def test_a_first_write_that_failed_left_no_table(tmp_path: Path) -> None:
    (tmp_path / "_delta_log" / "_staged_commits").mkdir(parents=True)
    assert table_log.open_log(tmp_path) is None
    assert table_log.read_last_record(tmp_path) is None
