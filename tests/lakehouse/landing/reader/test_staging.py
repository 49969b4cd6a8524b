"""Staging: good files become checked Parquet parts, a bad file leaves none, and each file has a verdict."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.errors import SessionError, StorageError
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader import reading, staging
from lakehouse.landing.reader.conformance import BatchStamp
from lakehouse.landing.reader.staging import StagedBatch, Verdict, stage_files
from lakehouse.landing.reader.task import StagingTask

STAMP = BatchStamp(7, datetime(2024, 1, 31, 12, tzinfo=UTC))
ITEMS = source("raw.items", landing="items", columns=("id", "value"))
HEADER = "id,value\n"


def stage(
    folder: Path, files: Mapping[str, str | bytes], declared: Source = ITEMS, existing: Mapping[str, str] | None = None
) -> StagedBatch:
    """Land files in the order of their names' mapping, and stage them."""
    landing, parts = folder / "landing", folder / "parts"
    landing.mkdir(exist_ok=True)
    parts.mkdir(exist_ok=True)
    landed = []
    for number, (name, content) in enumerate(files.items(), start=1):
        data = content.encode() if isinstance(content, str) else content
        (landing / name).write_bytes(data)
        landed.append(LandedFile(name, len(data), 0, "", number))
    staged = stage_files(StagingTask(declared, tuple(landed), landing, STAMP, existing or {}), parts)
    assert sorted(parts.iterdir()) == sorted(part.path for part in staged.parts)
    assert [(part.size, part.row_count) for part in staged.parts] == [
        (part.path.stat().st_size, pq.read_metadata(part.path).num_rows) for part in staged.parts
    ]
    return staged


def rows(staged: StagedBatch, *columns: str) -> list[tuple[Any, ...]]:
    """Read the parts, with their checksums verified. A column that a part lacks is null."""
    tables = [pq.read_table(part.path, page_checksum_verification=True) for part in staged.parts]
    records = [row for table in tables for row in table.to_pylist()]
    return [tuple(row.get(column) for column in columns) for row in records]


def test_small_files_share_a_part(tmp_path: Path) -> None:
    files = {
        "a.csv": HEADER + "1,1\n2\n",
        "bad.csv": HEADER + '3,1\n4,"1\n',
        "b.csv.gz": gzip.compress((HEADER + "5,\n").encode()),
        "none.csv": HEADER,
        "cut.csv": HEADER + "6,1",
    }
    staged = stage(tmp_path, files)
    assert len(staged.parts) == 1
    assert rows(staged, "id", "value", "_malformed", "_file_id", "_row", "_source_file", "_batch_id") == [
        ("1", "1", None, 1, 1, "a.csv", 7),
        (None, None, "2", 1, 2, "a.csv", 7),
        ("5", None, None, 3, 1, "b.csv.gz", 7),
    ]
    assert rows(staged, "_ingested_at") == [(STAMP.created_at,)] * 3
    assert staged.verdicts == (
        Verdict("a.csv", None, 2, 1),
        Verdict("bad.csv", "has a quote that is never closed, after line 2 (unexpected end of data)"),
        Verdict("b.csv.gz", None, 1, 0),
        Verdict("none.csv", None, 0, 0),
        Verdict("cut.csv", "does not end with a line end; it may be cut within its last value"),
    )


def test_parts_have_statistics_and_nullable_columns(tmp_path: Path) -> None:
    staged = stage(tmp_path, {"a.csv": HEADER + "1,x\n2,y\n", "b.csv": HEADER + "3,z\n"})
    metadata = pq.read_metadata(staged.parts[0].path)
    group = metadata.row_group(0)
    statistics = {group.column(i).path_in_schema: group.column(i).statistics for i in range(group.num_columns)}
    assert [statistics[c].min for c in ("id", "_file_id", "_row")] == ["1", 1, 1]
    assert [statistics[c].max for c in ("id", "_file_id", "_row")] == ["3", 2, 2]
    schema = pq.read_schema(staged.parts[0].path)
    assert schema.names == ["id", "value", *ITEMS.platform_columns]
    assert all(field.nullable for field in schema)
    assert schema.field("_ingested_at").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize(("part_bytes", "part_count"), [(100_000, 4), (1 << 20, 1)])
def test_a_large_file_that_fails_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int, part_count: int
) -> None:
    monkeypatch.setattr(staging, "PART_BYTES", part_bytes)
    monkeypatch.setattr("lakehouse.landing.reader.delimited.BLOCK_BYTES", 4000)
    monkeypatch.setattr("lakehouse.landing.reader.compression.CHUNK_BYTES", 2000)
    lines = "".join(f"{number},{number * 7}\n" for number in range(5000))
    files = {"a": HEADER + "x,1\n", "bad": HEADER + lines + '1,"2\n', "large": HEADER + lines, "b": HEADER + "y,1\n"}
    staged = stage(tmp_path, files)
    assert [verdict.path for verdict in staged.verdicts if verdict.reason] == ["bad"]
    assert sorted(rows(staged, "id", "value", "_file_id", "_row"), key=str) == sorted(
        [
            ("x", "1", 1, 1),
            *((str(number), str(number * 7), 3, number + 1) for number in range(5000)),
            ("y", "1", 4, 1),
        ],
        key=str,
    )
    assert len(staged.parts) == part_count


def test_later_files_use_columns_added_before(tmp_path: Path) -> None:
    declared = source("raw.items", landing="items", columns=("id",), contract=Contract(new_column="add"))
    files = {"a": "id\n1\n", "b": "id,gate\n2,A5\n", "c": "id,Gate\n3,A6\n", "d": "gate,id\nA7,4\n"}
    staged = stage(tmp_path, files, declared)
    assert staged.added_columns == {"gate": "string"}
    assert rows(staged, "id", "gate", "_rescued") == [
        ("1", None, None),
        ("2", "A5", None),
        ("3", None, '{"Gate":"A6"}'),
        ("4", "A7", None),
    ]
    assert [verdict.columns for verdict in staged.verdicts] == [
        None,
        {"id": "string", "gate": "string"},
        {"id": "string", "Gate": "string"},
        {"gate": "string", "id": "string"},
    ]
    again = stage(tmp_path / "parts", {"e": "id,gate\n5,7\n"}, declared, {"gate": "int"})
    assert rows(again, "id", "gate") == [("5", 7)]


def test_a_rejected_file_adds_no_column(tmp_path: Path) -> None:
    declared = source("raw.items", landing="items", columns=("id",), format="json", contract=Contract(new_column="add"))
    staged = stage(tmp_path, {"a": '{"id": "1", "gate": 1}\n{} {}\n', "b": '{"id": "2", "more": 2}\n'}, declared)
    assert staged.added_columns == {"more": "string"}
    assert rows(staged, "id", "more") == [("2", "2")]


def test_anything_raised_rejects_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = reading.read_unpacked

    def fail(content: Any, name: str, *more: Any) -> Any:
        if name == "b":
            raise RecursionError("too deep")
        return original(content, name, *more)

    monkeypatch.setattr(reading, "read_unpacked", fail)
    files = {"a": HEADER + "1,1\n", "b": HEADER + "2,1\n", "c": HEADER + "3,1\n"}
    staged = stage(tmp_path, files)
    assert rows(staged, "id") == [("1",), ("3",)]
    assert staged.verdicts[1] == Verdict("b", "cannot be read: too deep")


def test_a_store_that_fails_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PART_BYTES", 1)
    original = reading.read_unpacked

    def fail(content: Any, name: str, *more: Any) -> Any:
        if name == "b":
            raise StorageError("the store is away")
        return original(content, name, *more)

    monkeypatch.setattr(reading, "read_unpacked", fail)
    with pytest.raises(StorageError, match="the store is away"):
        stage(tmp_path, {"a": HEADER + "1,1\n", "b": HEADER + "2,1\n"})
    assert list((tmp_path / "parts").iterdir()) == []


def test_a_cancelled_staging_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(HEADER + "1,1\n")
    calls = iter([None, None])

    def check() -> None:
        if next(calls, "cancelled"):
            raise SessionError("The run was cancelled.")

    parts = tmp_path / "parts"
    parts.mkdir()
    task = StagingTask(ITEMS, (LandedFile("a", 12, 0, "", 1), LandedFile("a", 12, 0, "", 2)), tmp_path, STAMP)
    with pytest.raises(SessionError):
        stage_files(task, parts, check)
    assert list(parts.iterdir()) == []


def test_deeply_nested_json_rejects_its_file_alone(tmp_path: Path) -> None:
    declared = source("raw.items", landing="items", columns=("id",), format="json")
    files = {"deep": '{"id": ' + "[" * 200_000 + "\n", "good": '{"id": "1"}\n'}
    staged = stage(tmp_path, files, declared)
    assert rows(staged, "id", "_source_file")[-1] == ("1", "good")
    assert [verdict.reason is None for verdict in staged.verdicts][1]
