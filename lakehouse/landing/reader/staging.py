"""Staging of a batch: its landed files become Parquet parts, and a verdict on each file.

Each file is read once. The rows of a file are in the parts only if the whole file was read. Small files share parts.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.definitions.sources import MALFORMED
from lakehouse.landing import schema_drift
from lakehouse.landing.reader.part_statistics import ColumnStatistics, collect_statistics
from lakehouse.landing.reader.reading import FileReading
from lakehouse.landing.reader.rejection import ChangedFileError, explain_failure
from lakehouse.landing.reader.task import StagingTask
from lakehouse.storage.location import Location

# Bytes in memory of the rows of one part, which one task reads later. A file with more rows has parts of its own.
PART_BYTES = 32 << 20
COMPRESSION = "zstd"


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of a batch."""

    path: Location
    size: int
    row_count: int
    statistics: Mapping[str, ColumnStatistics]


@dataclass(frozen=True)
class Verdict:
    """The result of reading one file.

    Attributes:
        path: the path below the landing zone.
        reason: the reason to reject the file, or None.
        row_count: its records, malformed ones among them.
        malformed_count: its malformed records.
        columns: its columns in order with their types, if they are not the declared ones.
        has_changed: the file is no longer the pinned one.
    """

    path: str
    reason: str | None = None
    row_count: int = 0
    malformed_count: int = 0
    columns: Mapping[str, str] | None = None
    has_changed: bool = False


@dataclass(frozen=True)
class StagedBatch:
    """The parts of a batch, the verdicts on its files in their order, and the columns that its files add."""

    parts: tuple[Part, ...]
    verdicts: tuple[Verdict, ...]
    added_columns: Mapping[str, str]


def stage_files(task: StagingTask, folder: Path, check: Callable[[], object] = lambda: None) -> StagedBatch:
    """Read files into Parquet parts. A file that cannot be read is rejected alone, and leaves no part.

    Args:
        folder: an existing folder for the parts.
        check: called between rows. It raises an error to end the staging, which leaves no part.

    Raises:
        StorageError: the store failed. No part is left.
    """
    stager = _Stager(folder, check)
    verdicts, added = list[Verdict](), dict[str, str]()
    try:
        for file in task.files:
            existing = {**task.existing_columns, **added}
            reading = FileReading(task.source, file, task.landing, task.stamp, existing, task.limits)
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

    def __init__(self, folder: Path, check: Callable[[], object]) -> None:
        self.check = check
        self.shared = _PartWriter(folder)
        self.own: list[_PartWriter] = []

    def stage(self, reading: FileReading) -> Verdict:
        """Read one file, and keep its rows if the whole file can be read."""
        pending, size, row_count, malformed_count = list[pa.RecordBatch](), 0, 0, 0
        own: _PartWriter | None = None
        batches = reading.read_batches()
        while True:
            self.check()
            try:  # An error of a write, such as a full disk, is not the file's.
                batch = next(batches, None)
            except Exception as error:
                if own:
                    own.discard()
                has_changed = isinstance(error, ChangedFileError)
                return Verdict(reading.file.path, explain_failure(error), has_changed=has_changed)
            if batch is None:
                break
            pending.append(batch)
            size += batch.nbytes
            row_count += batch.num_rows
            malformed_count += _count_malformed(batch)
            if size > PART_BYTES:
                own = own or self._open_own()
                own.write(pending)
                pending, size = [], 0
        (own or self.shared).write(pending)
        if own:
            own.close()
        is_declared = schema_drift.has_declared_schema(reading.file_source, reading.columns)
        columns = None if is_declared else reading.columns
        return Verdict(reading.file.path, None, row_count, malformed_count, columns)

    def _open_own(self) -> _PartWriter:
        self.own.append(_PartWriter(self.shared.folder))
        return self.own[-1]

    def finish(self) -> tuple[Part, ...]:
        """Write the rows that are left, and return every part."""
        self.shared.close()
        return tuple(part for writer in (self.shared, *self.own) for part in writer.parts)

    def discard(self) -> None:
        """Remove every part."""
        for writer in (self.shared, *self.own):
            writer.discard()


def _count_malformed(batch: pa.RecordBatch) -> int:
    if MALFORMED not in batch.schema.names:
        return 0
    column = batch.column(MALFORMED)
    return int(len(column) - column.null_count)


@dataclass
class _PartWriter:
    """Gathers rows, and writes them into one part after the other."""

    folder: Path
    parts: list[Part] = field(default_factory=list)
    gathered: list[pa.RecordBatch] = field(default_factory=list)
    gathered_bytes: int = 0

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Add rows. Those with other columns than the rows before begin a new part."""
        for batch in batches:
            if self.gathered and self.gathered[0].schema != batch.schema:
                self.close()
            self.gathered.append(batch)
            self.gathered_bytes += batch.nbytes
            if self.gathered_bytes >= PART_BYTES:
                self.close()

    def close(self) -> None:
        """Write the gathered rows into a part, if there are any."""
        rows = pa.Table.from_batches(self.gathered) if self.gathered else None
        self.gathered, self.gathered_bytes = [], 0
        if rows is not None and rows.num_rows:
            self.parts.append(write_part(self.folder, rows))

    def discard(self) -> None:
        """Remove the parts."""
        for part in self.parts:
            part.path.unlink()
        self.parts, self.gathered = [], []


def write_part(folder: Path, rows: pa.Table) -> Part:
    """Write rows into a new Parquet file, synced to the disk."""
    path = folder / f"part-{secrets.token_hex(16)}.{COMPRESSION}.parquet"
    footer = list[pq.FileMetaData]()
    try:
        # The statistics are for readers that skip files; the checksums are for readers that verify pages.
        pq.write_table(
            rows,
            path,
            row_group_size=rows.num_rows,
            compression=COMPRESSION,
            write_page_checksum=True,
            write_statistics=True,
            store_schema=False,
            metadata_collector=footer,
        )
        with path.open("rb") as content:
            os.fsync(content.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Part(path, path.stat().st_size, rows.num_rows, collect_statistics(footer[0]))


@contextmanager
def open_part_folder(table: Location) -> Iterator[Path]:
    """Yield a temporary folder for parts. It lies in the folder of a local table, where `put_into` moves them."""
    if isinstance(table, Path):
        table.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="_staging-", dir=table if isinstance(table, Path) else None) as folder:
        yield Path(folder)


def put_into(folder: Location, part: Part) -> Part:
    """Put a part into a folder, unless it is there already: in the same file system it is moved."""
    file = folder / part.path.name
    if part.path == file:
        return part
    assert isinstance(part.path, Path)
    if isinstance(file, Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(part.path, file)
    else:
        file.upload(part.path)
    return replace(part, path=file)
