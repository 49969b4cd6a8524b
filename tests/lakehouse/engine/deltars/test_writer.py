"""Commits by delta-rs: conflicts, lost answers and failures leave no doubt, and no file of theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from lakehouse.deltalog.commit_record import Record
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.deltars import tables as deltars_tables
from lakehouse.engine.deltars import writer
from lakehouse.engine.deltars.tables import DeltaRsTables
from lakehouse.errors import CommitConflictError


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
