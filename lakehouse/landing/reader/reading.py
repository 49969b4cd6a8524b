"""Records of one landed file as rows of its bronze table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from lakehouse.definitions.options import TextOptions
from lakehouse.definitions.sources import Source
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader import parquet_files
from lakehouse.landing.reader.columns import check_first_record, find_added_columns, resolve_header
from lakehouse.landing.reader.compression import DEFAULT_LIMITS, UnpackLimits, read_unpacked
from lakehouse.landing.reader.conformance import BatchStamp, FileColumns, add_landing_columns
from lakehouse.landing.reader.delimited import DelimitedReader
from lakehouse.landing.reader.json_records import JsonReader
from lakehouse.landing.reader.line_ends import unify_line_ends
from lakehouse.landing.reader.path_columns import read_path_columns
from lakehouse.landing.reader.rejection import ChangedFileError
from lakehouse.landing.reader.text import read_utf8
from lakehouse.storage import location
from lakehouse.storage.location import Location


@dataclass
class FileReading:
    """One file while it is read. Each file is read once.

    Attributes:
        source: the declaration.
        file: the file.
        landing: the landing zone.
        stamp: the batch of the file.
        existing_columns: columns of the table, and of earlier files of the batch, with their types.
        limits: how far the file may unpack.
        columns: its columns with their types, complete when the file was read. Those in its path are not among them.
    """

    source: Source
    file: LandedFile
    landing: Location
    stamp: BatchStamp
    existing_columns: Mapping[str, str] = field(default_factory=dict)
    limits: UnpackLimits = DEFAULT_LIMITS
    columns: dict[str, str] = field(default_factory=dict)
    path_values: Mapping[str, pa.Scalar] = field(default_factory=dict)

    @cached_property
    def file_source(self) -> Source:
        """The declaration of the columns in the file."""
        return self.source.file_source

    @property
    def added_columns(self) -> dict[str, str]:
        """The undeclared columns that the contract adds, with their types in the table."""
        added = find_added_columns(self.file_source, self.columns, self.existing_columns)
        return {name: kind for name, kind in added.items() if name not in self.source.path_columns}

    def read_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the records, with the declared and added columns and those of the platform.

        Raises:
            Exception: the file must be rejected. `explain_failure` returns the reason.
        """
        self.path_values = read_path_columns(self.source, self.file.path)
        options = TextOptions.parse(self.source.options)
        if self.source.format == "parquet":
            yield from self._read_parquet()
        elif self.source.format == "csv":
            yield from self._read_csv(options)
        else:
            yield from self._read_json(options)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """Open the file. It must still be the pinned one when it was read."""
        with location.open_unlinked(self.landing, self.file.path) as content:
            yield content
            if self._has_changed(content):
                raise ChangedFileError

    def _has_changed(self, content: BinaryIO) -> bool:
        path = self.landing / self.file.path
        if not self.file.identity or not isinstance(path, Path):
            return False
        stat = os.fstat(content.fileno())
        if (stat.st_size, stat.st_mtime_ns) == (self.file.size, self.file.modified_ns):
            return False
        return location.compute_identity(path) != self.file.identity

    @contextmanager
    def _open_text(self, options: TextOptions) -> Iterator[Iterator[bytes]]:
        with self._open() as content:
            yield read_utf8(read_unpacked(content, self.file.path, self.file.size, self.limits), options.encoding)

    def _read_csv(self, options: TextOptions) -> Iterator[pa.RecordBatch]:
        with self._open_text(options) as pieces:
            lines, has_returns = unify_line_ends(pieces)
            reader = DelimitedReader(lines, options)
            if options.has_header:
                self.columns = resolve_header(self.file_source, reader.read_header())
            else:
                check_first_record(self.file_source, reader.read_first_record())
                self.columns = dict(self.file_source.columns)
            columns = FileColumns(self.file_source, self.columns, self.added_columns)
            for block in reader.read_records(len(self.columns)):
                records = block.restore_returns() if has_returns else block
                values, rescued = columns.conform(records.columns, records.rows[0].as_py())
                yield self._add_landing_columns(values, records.rows, rescued, records.malformed)

    def _read_parquet(self) -> Iterator[pa.RecordBatch]:
        with self._open() as content, parquet_files.open_parquet(content) as file:
            self.columns = parquet_files.resolve_schema(self.file_source, file.schema_arrow)
            columns = FileColumns(self.file_source, self.columns, self.added_columns)
            first = 1
            for arrays in parquet_files.read_columns(content, file, self.file.size, self.limits):
                rows = pa.array(np.arange(first, first + len(arrays[0])))
                values, rescued = columns.conform(arrays, first)
                yield self._add_landing_columns(values, rows, rescued)
                first += len(rows)

    def _read_json(self, options: TextOptions) -> Iterator[pa.RecordBatch]:
        with self._open_text(options) as pieces:
            reader = JsonReader(self.file_source, pieces)
            for records in reader.read_records():
                self.columns = reader.columns
                values, rescued = records.conform(self.added_columns)
                yield self._add_landing_columns(values, records.rows, rescued, records.malformed)
            self.columns = reader.columns

    def _add_landing_columns(
        self,
        values: Mapping[str, pa.Array],
        rows: pa.Array,
        rescued: pa.Array | None,
        malformed: pa.Array | None = None,
    ) -> pa.RecordBatch:
        if self.path_values:
            from_path = {name: pa.repeat(value, len(rows)) for name, value in self.path_values.items()}
            names = (*self.source.columns, *self.added_columns)
            values = {name: from_path[name] if name in from_path else values[name] for name in names}
        return add_landing_columns(
            values, rows, self.file, self.stamp, source=self.source, malformed=malformed, rescued=rescued
        )
