"""Records of a Parquet file, with page checksums verified where the file has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as arrow

from lakehouse.definitions.sources import Source
from lakehouse.landing.reader import column_types
from lakehouse.landing.reader.columns import check_columns
from lakehouse.landing.reader.compression import UnpackLimits, check_uncompressed
from lakehouse.landing.reader.extension_types import has_type, unwrap
from lakehouse.landing.reader.int96 import ExactTimes
from lakehouse.landing.reader.rejection import RejectedFileError

BATCH_ROWS = 1 << 16
# Arrow's error where a list of a fixed size is null. Parquet does not store the items of such a list.
_FIXED_LIST = "Expected all lists to be of size"


@contextmanager
def open_parquet(content: BinaryIO) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file. Its INT96 times are read in microseconds: in nanoseconds, years after 2262 would wrap.

    Raises:
        RejectedFileError: the file is compressed as a whole.
    """
    check_uncompressed(content)
    with pq.ParquetFile(content, page_checksum_verification=True, coerce_int96_timestamp_unit="us") as file:
        yield file


def resolve_schema(source: Source, schema: pa.Schema) -> dict[str, str]:
    """Return the columns of a Parquet file with their types.

    Raises:
        RejectedFileError: the file has no columns or one twice, or the contract rejects them.
    """
    names = schema.names
    if not names:
        raise RejectedFileError("has no columns")
    if duplicates := sorted({c for c in names if names.count(c) > 1}):
        raise RejectedFileError(f"has column {duplicates[0]} twice")
    columns = {column.name: column_types.name_type(column.type, source.columns.get(column.name)) for column in schema}
    check_columns(source, columns)
    if source.contract.new_column == "add":
        for column in schema:
            if column.name not in source.columns and not column_types.is_table_type(column.type):
                raise RejectedFileError(f"has column {column.name} as {columns[column.name]}, which cannot be read")
    return columns


def read_columns(content: BinaryIO, file: pq.ParquetFile, size: int, limits: UnpackLimits) -> Iterator[list[pa.Array]]:
    """Yield the columns of consecutive rows. Arrow's extensions of a type are replaced by this type.

    Args:
        content: the content of the file.
        file: the open file.
        size: the size of the file in bytes.
        limits: how far a file may unpack. It must break both limits, as encodings alone unpack any file many times.

    Raises:
        RejectedFileError: the file unpacks too far, Arrow cannot read a column, or an INT96 time would lose digits.
    """
    total = 0
    times = ExactTimes(content, file, BATCH_ROWS)
    for batch in _read_batches(file):
        total += batch.nbytes
        if total > limits.max_bytes and total > limits.max_ratio * size:
            raise RejectedFileError(f"unpacks to more than {limits.max_bytes:,} bytes")
        for rows in times.replace(batch):
            yield [unwrap(column) for column in rows.columns]


def _read_batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(BATCH_ROWS, use_threads=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        columns = [column for column in file.schema_arrow if has_type(column.type, arrow.is_fixed_size_list)]
        if not columns or _FIXED_LIST not in str(error):
            raise
        names = ", ".join(f"{column.name} as {column.type}" for column in columns)
        raise RejectedFileError(
            f"has column {names}, which cannot be read where a list of a fixed size is null"
        ) from error
