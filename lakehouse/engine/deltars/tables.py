"""Delta tables by delta-rs, with Arrow tables in the place of frames. Each write is one fenced and recorded commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from lakehouse.deltalog.table_log import TableLog, open_log
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.deltars.writer import ZSTD, DeltaRsWriter, check_fence, commit_once, compose_properties
from lakehouse.landing.reader.column_types import to_arrow_type
from lakehouse.landing.reader.staging import PART_BYTES, Part, open_part_folder, write_part
from lakehouse.storage.location import Location, build_delta_options


class DeltaRsTables:
    """`lakehouse.engine.base.Tables` for engines that give their rows as Arrow tables."""

    def __init__(self) -> None:
        self.files = DeltaRsWriter()

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, path: Location, version: int) -> pa.Table:
        return _read_rows(open_log(path, version))

    def read_latest(self, path: Location) -> pa.Table:
        return _read_rows(open_log(path))

    def read_changes(self, path: Location, after: int, until: int) -> pa.Table:
        table = DeltaTable(str(path), storage_options=build_delta_options(path))
        return pa.table(table.load_cdf(after + 1, until).read_all())

    def from_arrow(self, rows: pa.Table) -> pa.Table:
        return rows

    # --- writing ----------------------------------------------------------------------------------------------------

    def prepare(self, target: Target, added: Mapping[str, str]) -> None:
        self.files.prepare(target, {name: to_arrow_type(kind) for name, kind in added.items()})

    def append(self, rows: pa.Table, target: Target, commit: Commit, *, can_add_columns: bool = False) -> None:
        with _write_parts(rows, target) as parts:
            self.files.append(parts, _make_nullable(rows.schema), target, commit, can_add_columns=can_add_columns)

    def overwrite(self, rows: pa.Table, target: Target, commit: Commit) -> None:
        with _write_parts(rows, target) as parts:
            self.files.overwrite(parts, _make_nullable(rows.schema), target, commit)

    def replace(
        self, rows: pa.Table, target: Target, commit: Commit, predicate: str, *, can_add_columns: bool = False
    ) -> None:
        log = open_log(target.path)
        if log is None:
            self.append(rows, target, commit)
            return
        if can_add_columns:
            self.files.add_columns(target, log, _make_nullable(rows.schema))

        def write(table: DeltaTable) -> None:
            complete = _conform(rows, pa.schema(table.schema()))
            write_deltalake(
                table,
                complete,
                mode="overwrite",
                predicate=predicate,
                writer_properties=ZSTD,
                commit_properties=compose_properties(commit, rows.num_rows),
            )

        _commit(log, target, commit, write)

    def merge(
        self, rows: pa.Table, target: Target, commit: Commit, key: Sequence[str], prune: str, delete: str | None
    ) -> None:
        log = open_log(target.path)
        assert log is not None, "a merge has a target"
        on = " AND ".join([*(f't."{c}" = s."{c}"' for c in key), *([prune] if prune else [])])
        values = {f'"{c}"': f's."{c}"' for c in rows.schema.names if c != delete}
        is_deleted = f's."{delete}"' if delete else None
        kept = f"NOT {is_deleted}" if is_deleted else None

        def write(table: DeltaTable) -> None:
            merging = table.merge(
                _conform(rows, _make_nullable(rows.schema)),
                on,
                source_alias="s",
                target_alias="t",
                streamed_exec=False,  # then the statistics of the rows limit the files of the target that are read
                writer_properties=ZSTD,
                commit_properties=compose_properties(commit, rows.num_rows),
            )
            if is_deleted:
                merging = merging.when_matched_delete(is_deleted)
            merging.when_matched_update(values, kept).when_not_matched_insert(values, kept).execute()

        _commit(log, target, commit, write)

    def restore(self, target: Target, commit: Commit, version: int) -> None:
        log = open_log(target.path)
        assert log is not None, "a restored table exists"
        properties = compose_properties(commit, 0, has_transaction=False)
        _commit_unfenced(log, target, commit, lambda table: table.restore(version, commit_properties=properties))

    def empty(self, target: Target, commit: Commit) -> None:
        log = open_log(target.path)
        assert log is not None, "an emptied table exists"
        self.files.overwrite([], pa.schema(log.delta_table.schema()), target, commit)


def _read_rows(log: TableLog | None) -> pa.Table:
    assert log is not None, "a table that is read exists"
    return log.open_dataset().to_table()


def _commit(log: TableLog, target: Target, commit: Commit, write: Callable[[DeltaTable], Any]) -> None:
    check_fence(log, target, commit)
    _commit_unfenced(log, target, commit, write)


def _commit_unfenced(log: TableLog, target: Target, commit: Commit, write: Callable[[DeltaTable], Any]) -> None:
    commit_once(target, commit, log, lambda: write(log.delta_table))


@contextmanager
def _write_parts(rows: pa.Table, target: Target) -> Iterator[list[Part]]:
    """Write rows into Parquet files."""
    with open_part_folder(target.path) as folder:
        conformed = _conform(rows, _make_nullable(rows.schema))
        count = max(1, -(-conformed.nbytes // PART_BYTES))
        size = -(-conformed.num_rows // count) or 1
        starts = range(0, conformed.num_rows, size)
        yield [write_part(folder, conformed.slice(start, size)) for start in starts]


def _conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows with the columns of a schema. A column that they lack is null."""
    columns = [
        rows.column(field.name).cast(field.type) if field.name in rows.schema.names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _make_nullable(schema: pa.Schema) -> pa.Schema:
    """Return a schema in which every column and nested field may be null: a table takes NOT NULL from its rows."""
    return pa.schema([pa.field(field.name, _to_nullable(field.type)) for field in schema])


def _to_nullable(kind: Any) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _to_nullable(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_to_nullable(kind.key_type), _to_nullable(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_to_nullable(kind.value_type))
    return kind
