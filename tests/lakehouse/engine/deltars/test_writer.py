"""Commits by delta-rs: conflicts, lost answers and failures leave no doubt, and no file of theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Field
from deltalake.exceptions import CommitFailedError, DeltaError

from lakehouse.deltalog.commit_record import Record
from lakehouse.engine import verification
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.deltars import tables as deltars_tables
from lakehouse.engine.deltars import writer
from lakehouse.engine.deltars.tables import DeltaRsTables
from lakehouse.engine.deltars.writer import DeltaRsWriter
from lakehouse.errors import CommitConflictError, LedgerError
from lakehouse.landing.reader.staging import Part, write_part


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target("raw.items", tmp_path / "items", ("id",))


def commit(batch: int, run: str = "run") -> Commit:
    return Commit("raw.items", Record(run, batch, 1, {}, {}, "r", "f", "2024-01-31T00:00:00"))


def append(target: Target, batch: int, run: str = "run") -> None:
    DeltaRsTables().append(pa.table({"id": [batch]}), target, commit(batch, run))


def ids(target: Target) -> list[int]:
    return sorted(DeltaTable(str(target.path)).to_pyarrow_table().column("id").to_pylist())


def count_files(target: Target) -> int:
    return len(list(Path(str(target.path)).glob("*.parquet")))


def test_a_conflict_leaves_nothing(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer commits after the log was read, and before the own commit."""
    append(target, 1)
    check = writer.check_fence

    def check_and_wait(*arguments: Any) -> None:
        check(*arguments)
        monkeypatch.setattr(writer, "check_fence", check)
        append(target, 2, "another run")

    monkeypatch.setattr(writer, "check_fence", check_and_wait)
    with pytest.raises(CommitConflictError, match=r"raw\.items: another writer committed first"):
        append(target, 3)
    assert ids(target) == [1, 2]
    assert count_files(target) == 2, "the files of the failed commit are removed"
    append(target, 3)
    assert ids(target) == [1, 2, 3]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_commit_with_a_lost_answer_is_made_once(
    target: Target, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    if not is_first:
        append(target, 1)
    lose_answers(monkeypatch)
    append(target, 2)
    assert ids(target) == ([2] if is_first else [1, 2])


def lose_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each commit be made, and raise the error of a failed one."""

    def lose(write: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            write(*arguments, **options)
            raise CommitFailedError("no answer")

        return call

    monkeypatch.setattr(writer, "create_table_with_add_actions", lose(writer.create_table_with_add_actions))
    monkeypatch.setattr(DeltaTable, "create_write_transaction", lose(DeltaTable.create_write_transaction))


def write_parts(folder: Path, **columns: list[Any]) -> list[Part]:
    """Stage rows, and return their file."""
    folder.mkdir(exist_ok=True)
    return [write_part(folder, pa.table(columns))]


def test_staged_files_replace_rows_by_value(target: Target, tmp_path: Path) -> None:
    """Three deliveries: rows of a file and of a batch are replaced, other rows stay, a column is added."""
    files, schema = DeltaRsWriter(), pa.schema({"id": pa.int64(), "_source_file": pa.string(), "_batch_id": pa.int64()})
    first = write_parts(tmp_path / "1", id=[1, 2, 3], _source_file=["a'b", "c", "d"], _batch_id=[1, 1, 1])
    files.append(first, schema, target, commit(1))
    values: dict[str, Any] = {"_source_file": {"a'b", "c"}, "_batch_id": [2]}
    second = write_parts(tmp_path / "2", id=[4, 5], _source_file=["a'b", "e"], _batch_id=[2, 2])
    files.replace(second, schema, target, commit(2), values)
    table = DeltaTable(str(target.path))
    feed = pa.table(table.load_cdf(1, 1).read_all()).to_pylist()
    assert sorted((row["_change_type"], row["id"]) for row in feed) == [
        ("delete", 1),
        ("delete", 2),
        ("insert", 4),
        ("insert", 5),
    ]
    added = pa.schema([*schema, pa.field("note", pa.string())])
    third = write_parts(tmp_path / "3", id=[6], _source_file=["e"], _batch_id=[3], note=["n"])
    files.replace(third, added, target, commit(3), {"_source_file": ["e"], "_batch_id": [3]}, can_add_columns=True)
    rows = DeltaTable(str(target.path)).to_pyarrow_table().sort_by("id").to_pylist()
    assert [(row["id"], row["_source_file"], row["_batch_id"], row["note"]) for row in rows] == [
        (3, "d", 1, None),
        (4, "a'b", 2, None),
        (6, "e", 3, "n"),
    ]
    outside = write_parts(tmp_path / "4", id=[7], _source_file=["other"], _batch_id=[9], note=["n"])
    with pytest.raises(DeltaError, match="(?i)predicate|check"):
        files.replace(outside, added, target, commit(4), {"_source_file": ["e"], "_batch_id": [4]})
    with pytest.raises(LedgerError, match="batch 3 was not committed by this run"):
        files.replace(third, added, target, commit(3, "other"), {"_source_file": ["e"]})
    assert ids(target) == [3, 4, 6]


WRITES: dict[str, Callable[[Target, Commit], None]] = {
    "append": lambda target, commit: DeltaRsTables().append(pa.table({"id": [9]}), target, commit),
    "overwrite": lambda target, commit: DeltaRsTables().overwrite(pa.table({"id": [9]}), target, commit),
    "replace": lambda target, commit: DeltaRsTables().replace(pa.table({"id": [9]}), target, commit, "id > 0"),
    "merge": lambda target, commit: DeltaRsTables().merge(pa.table({"id": [9]}), target, commit, ["id"], "", None),
    "restore": lambda target, commit: DeltaRsTables().restore(target, commit, 0),
    "empty": lambda target, commit: DeltaRsTables().empty(target, commit),
}
RESULTS = {"append": [1, 2, 9], "overwrite": [9], "replace": [9], "merge": [1, 2, 9], "restore": [1], "empty": []}


@pytest.mark.parametrize("name", WRITES)
def test_each_write_with_a_lost_answer_is_made_once(target: Target, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    append(target, 1)
    append(target, 2)
    commit_once, calls = verification.commit_once, []

    def lose(target: Target, commit: Commit, write: Callable[[], object]) -> Any:
        def write_and_fail() -> None:
            write()
            calls.append(name)
            raise CommitFailedError("no answer")

        return commit_once(target, commit, write_and_fail)

    monkeypatch.setattr(verification, "commit_once", lose)
    WRITES[name](target, commit(3))
    assert ids(target) == RESULTS[name]
    assert DeltaTable(str(target.path)).version() == 2
    assert calls == [name]


@pytest.mark.parametrize("name", WRITES)
def test_each_write_finds_a_conflict(target: Target, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    append(target, 1)
    append(target, 2)
    commit_once = verification.commit_once

    def commit_late(target: Target, commit: Commit, write: Callable[[], object]) -> Any:
        monkeypatch.setattr(verification, "commit_once", commit_once)
        append(target, 3, "another run")
        return commit_once(target, commit, write)

    monkeypatch.setattr(verification, "commit_once", commit_late)
    with pytest.raises(CommitConflictError, match=r"raw\.items: another writer committed first"):
        WRITES[name](target, commit(4))
    assert ids(target) == [1, 2, 3]


@pytest.mark.parametrize("change", ["columns", "properties"])
def test_a_change_of_the_table_finds_a_conflict(target: Target, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    append(replace(target, has_change_feed=False), 1)
    open_log = writer.open_log

    def open_and_wait(path: Any) -> Any:
        log = open_log(path)
        monkeypatch.setattr(writer, "open_log", open_log)
        DeltaTable(str(target.path)).alter.add_columns([Field("other", "string")])
        return log

    monkeypatch.setattr(writer, "open_log", open_and_wait)
    added = {"more": "int"} if change == "columns" else {}
    with pytest.raises(CommitConflictError, match=r"raw\.items: another writer committed first"):
        DeltaRsTables().prepare(target, added)
    DeltaRsTables().prepare(target, added)
    log = open_log(target.path)
    assert log is not None
    assert log.has_change_feed()
    assert ("more" in log.read_columns()) == bool(added)
    assert (Path(str(target.path)) / "_delta_log" / f"{log.version:020d}.crc").exists()


def test_an_interrupt_after_the_commit_keeps_its_files(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    append(target, 1)
    write = DeltaTable.create_write_transaction

    def write_and_stop(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(DeltaTable, "create_write_transaction", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        append(target, 2)
    assert ids(target) == [1, 2]


def test_an_error_that_is_no_conflict_is_raised(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    append(target, 1)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", fail)
    with pytest.raises(OSError, match="No space left"):
        append(target, 2)
    assert ids(target) == [1]


def test_large_rows_are_written_in_parts(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltars_tables, "PART_BYTES", 1000)
    DeltaRsTables().append(pa.table({"id": list(range(500))}), target, commit(1))
    assert count_files(target) == 4
    assert ids(target) == list(range(500))
    [schema] = {str(pq.read_schema(file)) for file in Path(str(target.path)).glob("*.parquet")}
    assert "id: int64" in schema
