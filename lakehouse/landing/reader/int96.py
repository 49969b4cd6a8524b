"""Times in INT96, an old type of Parquet with nanoseconds.

Arrow reads them in one unit. In nanoseconds, years before 1677 or after 2262 wrap; in microseconds, further digits
vanish. So they are read in both: microseconds are taken where nothing is lost, nanoseconds elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as arrow

from lakehouse.landing.reader.conversion import to_texts
from lakehouse.landing.reader.rejection import RejectedFileError

# The largest number of microseconds whose nanoseconds do not wrap, whatever their last digits.
_MAX_MICROSECONDS = (1 << 63) // 1000 - 1


class ExactTimes:
    """Second reader of the columns of a file with INT96 times, in nanoseconds.

    Args:
        content: the file.
        file: the same file, with these times in microseconds.
        batch_rows: the number of rows to read at once.
    """

    def __init__(self, content: BinaryIO, file: pq.ParquetFile, batch_rows: int) -> None:
        self.columns: list[str] = []
        if not _has_int96(file.schema):
            return
        exact = pq.ParquetFile(content, metadata=file.metadata, page_checksum_verification=True)
        pairs = zip(file.schema_arrow, exact.schema_arrow, strict=True)
        self.columns = [field.name for field, other in pairs if field.type != other.type]
        self.batches = exact.iter_batches(batch_rows, columns=self.columns, use_threads=False)
        self.rest = exact.schema_arrow.empty_table().select(self.columns)

    def replace(self, rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Yield the next rows of the file, in nanoseconds where microseconds would lose digits.

        Raises:
            RejectedFileError: a value is too far from 1970 for nanoseconds, and has digits below a microsecond.
        """
        return _choose(rows, self._read(len(rows))) if self.columns else iter((rows,))

    def _read(self, count: int) -> dict[str, pa.Array]:
        """Read these columns of the next rows."""
        while len(self.rest) < count:
            batch = pa.Table.from_batches([next(self.batches)]).select(self.columns)
            self.rest = pa.concat_tables([self.rest, batch])
        rows, self.rest = self.rest.slice(0, count), self.rest.slice(count)
        return {name: pa.concat_arrays(rows[name].chunks) for name in self.columns}


def _has_int96(schema: pq.ParquetSchema) -> bool:
    return any(schema.column(index).physical_type == "INT96" for index in range(len(schema)))


def _choose(rows: pa.RecordBatch, exact: Mapping[str, pa.Array]) -> Iterator[pa.RecordBatch]:
    """Yield rows with the exact values of each column that would lose digits.

    Where such a column also has a value that its exact values do not have, the rows are halved.
    """
    replaced = rows
    for name, values in exact.items():
        pairs = list(zip(_list_times(rows[name]), _list_times(values), strict=True))
        if all(_has_equal_times(*pair) for pair in pairs):
            continue
        if not all(_has_near_times(microseconds) for microseconds, _ in pairs):
            yield from _halve(rows, exact, name)
            return
        replaced = replaced.set_column(rows.schema.get_field_index(name), name, values)
    yield replaced


def _halve(rows: pa.RecordBatch, exact: Mapping[str, pa.Array], name: str) -> Iterator[pa.RecordBatch]:
    middle = len(rows) // 2
    if not middle:
        text = to_texts(rows[name])[0]
        raise RejectedFileError(f"has column {name} with {text} and digits below a microsecond, which cannot be read")
    for start, length in ((0, middle), (middle, len(rows) - middle)):
        yield from _choose(rows.slice(start, length), {c: values.slice(start, length) for c, values in exact.items()})


def _has_equal_times(microseconds: pa.Array, nanoseconds: pa.Array) -> bool:
    """Return whether times are the same in both units. Nanoseconds that wrap are compared as such."""
    wrapped = pc.multiply(microseconds.cast(pa.int64()), 1000)
    return bool(wrapped.equals(nanoseconds.cast(pa.int64())))


def _has_near_times(microseconds: pa.Array) -> bool:
    """Return whether no time wraps in nanoseconds."""
    numbers = pc.min_max(microseconds.cast(pa.int64()))
    low, high = numbers["min"].as_py(), numbers["max"].as_py()
    return low is None or (low > -_MAX_MICROSECONDS and high < _MAX_MICROSECONDS)


def _list_times(values: Any) -> Iterator[pa.Array]:
    """Yield the times of a column at any depth."""
    kind = values.type
    if arrow.is_timestamp(kind):
        yield values
    elif arrow.is_struct(kind):
        for child in values.flatten():
            yield from _list_times(child)
    elif arrow.is_map(kind):
        start, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
        for child in (values.keys, values.items):
            yield from _list_times(child.slice(start, end - start))
    elif arrow.is_nested(kind):
        yield from _list_times(values.flatten())
