"""Staging of a batch: its landed files become Parquet parts, and a verdict on each file.

Each file is read once. The rows of a file are in the parts only if the whole file was read. Small files share parts.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.definitions.sources import MALFORMED, Source
from lakehouse.landing import schema_drift
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader.compression import DEFAULT_LIMITS, UnpackLimits
from lakehouse.landing.reader.conformance import BatchStamp
from lakehouse.landing.reader.reading import FileReading
from lakehouse.landing.reader.rejection import explain_failure
from lakehouse.storage.location import Location

# Bytes of a file's rows that are kept in memory until the file was read. A larger file has parts of its own.
SPOOL_BYTES = 64 << 20
ROW_GROUP_BYTES = 64 << 20
PART_BYTES = 128 << 20
COMPRESSION = "zstd"


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of a batch."""

    path: Path
    size: int
    row_count: int


@dataclass(frozen=True)
class Verdict:
    """The result of reading one file.

    Attributes:
        path: the path below the landing zone.
        reason: the reason to reject the file, or None.
        row_count: its records, malformed ones among them.
        malformed_count: its malformed records.
        columns: its columns in order with their types, if they are not the declared ones.
    """

    path: str
    reason: str | None = None
    row_count: int = 0
    malformed_count: int = 0
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True)
class StagedBatch:
    """The parts of a batch, the verdicts on its files in their order, and the columns that its files add."""

    parts: tuple[Part, ...]
    verdicts: tuple[Verdict, ...]
    added_columns: Mapping[str, str]


def stage_files(
    source: Source,
    files: Iterable[LandedFile],
    landing: Location,
    folder: Path,
    stamp: BatchStamp,
    existing_columns: Mapping[str, str] | None = None,
    limits: UnpackLimits = DEFAULT_LIMITS,
) -> StagedBatch:
    """Read files into Parquet parts. A file that cannot be read is rejected alone, and leaves no part.

    Args:
        folder: an existing folder for the parts.
        existing_columns: columns of the table with their types. A column that a contract added keeps its type.

    Raises:
        StorageError: the store failed. No part is left.
    """
    stager = _Stager(folder)
    verdicts, added = list[Verdict](), dict[str, str]()
    try:
        for file in files:
            reading = FileReading(source, file, landing, stamp, {**(existing_columns or {}), **added}, limits)
            verdict = stager.stage(reading)
            if verdict.reason is None:
                added.update(reading.added_columns)
            verdicts.append(verdict)
        parts = stager.finish()
    except BaseException:
        stager.discard()
        raise
    return StagedBatch(parts, tuple(verdicts), added)


class _Stager:
    """Writes the rows of files into parts."""

    def __init__(self, folder: Path) -> None:
        self.shared = _PartWriter(folder)
        self.own_parts: list[_PartWriter] = []

    def stage(self, reading: FileReading) -> Verdict:
        """Read one file, and keep its rows if the whole file can be read."""
        pending, size, row_count, malformed_count = list[pa.RecordBatch](), 0, 0, 0
        own: _PartWriter | None = None
        try:
            for batch in reading.read_batches():
                pending.append(batch)
                size += batch.nbytes
                row_count += batch.num_rows
                malformed_count += _count_malformed(batch)
                if size > SPOOL_BYTES:
                    own = own or self._open_own()
                    own.write(pending)
                    pending, size = [], 0
        except Exception as error:
            if own:
                own.discard()
                self.own_parts.remove(own)
            return Verdict(reading.file.path, explain_failure(error))
        (own or self.shared).write(pending)
        if own:
            own.close()
        is_declared = schema_drift.has_declared_schema(reading.source, reading.columns)
        columns = None if is_declared else reading.columns
        return Verdict(reading.file.path, None, row_count, malformed_count, columns)

    def _open_own(self) -> _PartWriter:
        self.own_parts.append(_PartWriter(self.shared.folder))
        return self.own_parts[-1]

    def finish(self) -> tuple[Part, ...]:
        """Close every part, and return them."""
        self.shared.close()
        return tuple(part for writer in (self.shared, *self.own_parts) for part in writer.parts)

    def discard(self) -> None:
        """Remove every part."""
        for writer in (self.shared, *self.own_parts):
            writer.discard()


def _count_malformed(batch: pa.RecordBatch) -> int:
    if MALFORMED not in batch.schema.names:
        return 0
    column = batch.column(MALFORMED)
    return int(len(column) - column.null_count)


@dataclass
class _PartWriter:
    """Writes rows into one part after the other. Batches are gathered into row groups."""

    folder: Path
    parts: list[Part] = field(default_factory=list)
    gathered: list[pa.RecordBatch] = field(default_factory=list)
    gathered_bytes: int = 0
    path: Path | None = None
    writer: pq.ParquetWriter | None = None
    row_count: int = 0

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Write rows. Those with other columns than the rows before begin a new part."""
        for batch in batches:
            if self.gathered and self.gathered[0].schema != batch.schema:
                self.close()
            self.gathered.append(batch)
            self.gathered_bytes += batch.nbytes
            if self.gathered_bytes >= ROW_GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        if not self.gathered:
            return
        table = pa.Table.from_batches(self.gathered)
        self.gathered, self.gathered_bytes = [], 0
        if self.writer is not None and self.writer.schema != table.schema:
            self._close_part()
        if self.writer is None:
            self.path = self.folder / f"part-{secrets.token_hex(16)}.{COMPRESSION}.parquet"
            self.writer = _open_writer(self.path, table.schema)
        self.writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.row_count += table.num_rows
        if self.path and self.path.stat().st_size >= PART_BYTES:
            self._close_part()

    def close(self) -> None:
        """Write the gathered rows, and finish the part."""
        self._flush()
        self._close_part()

    def _close_part(self) -> None:
        if self.writer is None or self.path is None:
            return
        self.writer.close()
        with self.path.open("rb") as content:
            os.fsync(content.fileno())
        self.parts.append(Part(self.path, self.path.stat().st_size, self.row_count))
        self.writer, self.path, self.row_count = None, None, 0

    def discard(self) -> None:
        """Remove the parts, finished or not."""
        if self.writer is not None:
            self.writer.close()
        for path in (*(part.path for part in self.parts), self.path):
            if path is not None:
                path.unlink(missing_ok=True)
        self.parts, self.gathered, self.writer, self.path = [], [], None, None


def _open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # The statistics are for readers that skip row groups; the checksums are for readers that verify pages.
    return pq.ParquetWriter(
        path, schema, compression=COMPRESSION, write_page_checksum=True, write_statistics=True, store_schema=False
    )
