"""Records of a Parquet file, with page checksums verified where the file has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.definitions.sources import Source
from lakehouse.landing.reader import column_types
from lakehouse.landing.reader.columns import check_columns
from lakehouse.landing.reader.compression import UnpackLimits
from lakehouse.landing.reader.rejection import RejectedFileError

BATCH_ROWS = 1 << 16


def open_parquet(file: BinaryIO) -> pq.ParquetFile:
    """Open a Parquet file. Its INT96 times are read in microseconds: in nanoseconds, years after 2262 would wrap."""
    return pq.ParquetFile(file, page_checksum_verification=True, coerce_int96_timestamp_unit="us")


def resolve_schema(source: Source, schema: pa.Schema) -> dict[str, str]:
    """Return the columns of a Parquet file with their types.

    Raises:
        RejectedFileError: the contract rejects the columns.
    """
    names = schema.names
    if duplicates := sorted({c for c in names if names.count(c) > 1}):
        raise RejectedFileError(f"has column {duplicates[0]} twice")
    columns = {column.name: column_types.name_type(column.type, source.columns.get(column.name)) for column in schema}
    check_columns(source, columns)
    if source.contract.new_column == "add":
        for column in schema:
            if column.name not in source.columns and not column_types.is_table_type(column.type):
                raise RejectedFileError(f"has column {column.name} as {columns[column.name]}, which cannot be read")
    return columns


def read_columns(file: pq.ParquetFile, size: int, limits: UnpackLimits) -> Iterator[list[pa.Array]]:
    """Yield the columns of consecutive rows.

    Args:
        file: the open file.
        size: the size of the file in bytes.
        limits: how far a file may unpack. It must break both limits, as encodings alone unpack any file many times.

    Raises:
        RejectedFileError: the file unpacks too far.
    """
    total = 0
    for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
        total += batch.nbytes
        if total > limits.max_bytes and total > limits.max_ratio * size:
            raise RejectedFileError(f"unpacks to more than {limits.max_bytes:,} bytes")
        yield list(batch.columns)
