"""Columns of a bronze table from the columns of a file, by the contract of its source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.definitions.data_types import VOID
from lakehouse.definitions.sources import MALFORMED, RESCUED, Source
from lakehouse.landing import schema_drift
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader import conversion
from lakehouse.landing.reader.column_types import to_arrow_type
from lakehouse.landing.reader.rejection import RejectedFileError

# Key in `_rescued` for the declared columns that the row's file lacks.
MISSING = "_missing"


@dataclass(frozen=True)
class BatchStamp:
    """The number and the time of a batch, which each of its rows has."""

    batch: int
    created_at: datetime


@dataclass(frozen=True)
class FileColumns:
    """The columns of one file, and those of the bronze table that it gives.

    Attributes:
        source: the declaration.
        types: the columns in the file's order with their types.
        added: the columns that the contract adds, with their types in the table.
    """

    source: Source
    types: Mapping[str, str]
    added: Mapping[str, str] = field(default_factory=dict)

    @property
    def target_types(self) -> dict[str, str]:
        """The declared and the added columns with their types."""
        return {**self.source.columns, **self.added}

    def conform(self, columns: Sequence[pa.Array], first_row: int) -> tuple[dict[str, pa.Array], pa.Array | None]:
        """Convert the columns of consecutive records to those of the bronze table.

        Args:
            columns: the values by position in the file.
            first_row: the number of the first record.

        Returns:
            The declared and added columns, and `_rescued` if the contract has it.

        Raises:
            RejectedFileError: a value would be altered, and the contract rescues none; or a rescued column has the name
                of the list of missing columns.
        """
        count = len(columns[0]) if columns else 0
        by_name = dict(zip(self.types, columns, strict=True))
        values: dict[str, pa.Array] = {}
        rescued: dict[str, pa.Array] = {}
        for name, kind in self.target_types.items():
            if name not in by_name:
                values[name] = pa.nulls(count, to_arrow_type(kind))
                continue
            values[name], texts = self._convert(name, by_name[name], kind, first_row)
            if texts is not None:
                rescued[name] = texts
        for name, column in by_name.items():
            if name not in values and self.types[name] != VOID:
                rescued[name] = conversion.to_texts(column)
        if not self.source.contract.has_rescued_column:
            return values, None
        missing = schema_drift.detect_drift(self.source, self.types).missing_columns
        if missing and MISSING in rescued:
            raise RejectedFileError(f"has column {MISSING}, the name by which `_rescued` lists missing columns")
        return values, format_rescued(rescued, missing, count)

    def _convert(self, name: str, column: pa.Array, kind: str, first_row: int) -> tuple[pa.Array, pa.Array | None]:
        """Return a column's values as a type, and the texts of those that are rescued, if any."""
        target = to_arrow_type(kind)
        if schema_drift.can_read_as(self.types[name], kind):
            values, lossy = conversion.convert_lossless(column, target)
            if not lossy:
                return values, None
            if self.source.contract.changed_type == "fail":
                text = conversion.to_texts(column.slice(lossy[0], 1))[0].as_py()
                raise RejectedFileError(f"has {name}={text} in row {first_row + lossy[0]}, which {kind} cannot hold")
        else:
            values = conversion.cast_to_other_type(column, target)
        is_lost = pc.and_(column.is_valid(), values.is_null())
        texts = conversion.to_texts(column.filter(is_lost))
        return values, pc.replace_with_mask(pa.nulls(len(column), pa.string()), is_lost, texts)


def format_rescued(rescued: Mapping[str, pa.Array], missing: Sequence[str], count: int) -> pa.Array:
    """Return the rescued values of each record as a JSON object, null where there are none.

    Args:
        rescued: the texts of the rescued values by column.
        missing: the declared columns that the file lacks.
        count: the number of records.
    """
    always = {MISSING: list(missing)} if missing else {}
    with_values = {name: texts for name, texts in rescued.items() if texts.null_count < count}
    if not with_values:
        return pa.repeat(pa.scalar(format_json(always), pa.string()), count)
    rows = zip(*(texts.to_pylist() for texts in with_values.values()), strict=True)
    names = list(with_values)
    objects = ({n: v for n, v in zip(names, row, strict=True) if v is not None} for row in rows)
    return pa.array([format_json({**found, **always}) for found in objects], pa.string())


def format_json(value: Mapping[str, Any]) -> str | None:
    """Return an object as compact JSON; None for an empty one."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if value else None


def add_landing_columns(
    values: Mapping[str, pa.Array],
    rows: pa.Array,
    file: LandedFile,
    stamp: BatchStamp,
    *,
    source: Source,
    malformed: pa.Array | None = None,
    rescued: pa.Array | None = None,
) -> pa.RecordBatch:
    """Return records with the columns that the platform adds, in the order of the bronze table."""
    count = len(rows)
    no_text = pa.nulls(count, pa.string())
    if malformed is not None and rescued is not None:
        rescued = pc.if_else(malformed.is_null(), rescued, None)
    landing: dict[str, Callable[[], Any]] = {
        MALFORMED: lambda: no_text if malformed is None else malformed,
        RESCUED: lambda: no_text if rescued is None else rescued,
        "_file_id": lambda: pa.repeat(pa.scalar(file.file_id, pa.int64()), count),
        "_row": lambda: rows,
        "_source_file": lambda: _repeat_text(file.path, count),
        "_batch_id": lambda: pa.repeat(pa.scalar(stamp.batch, pa.int64()), count),
        "_ingested_at": lambda: pa.repeat(pa.scalar(stamp.created_at, to_arrow_type("timestamp")), count),
    }
    columns = dict(values) | {name: landing[name]() for name in source.platform_columns}
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _repeat_text(text: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), count)


def list_target_schema(types: Mapping[str, str]) -> pa.Schema:
    """Return the Arrow schema of columns with their declared types. Every column may be null."""
    return pa.schema([pa.field(name, to_arrow_type(kind)) for name, kind in types.items()])
