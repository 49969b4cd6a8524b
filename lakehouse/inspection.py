"""A landed file before it is read: whether it is whole, readable and has the declared columns. Each gives a reason to reject it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from lakehouse.declare import Source
from lakehouse.storage import Location

CHUNK_BYTES = 1 << 20


def unpacked(path: Location) -> BinaryIO:
    """A file's content, unpacked where its name says that it is packed."""
    content = path.open("rb")
    return cast(BinaryIO, gzip.open(content, "rb")) if path.suffix == ".gz" else content


def _chunks(path: Location) -> Iterator[bytes]:
    with unpacked(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _changed(found: Collection[str], declared: Collection[str]) -> list[str]:
    return [f"misses column {c}" for c in declared if c not in found] + _unknown(found, declared)


def _unknown(found: Collection[str], declared: Collection[str]) -> list[str]:
    return [f"has an unknown column {c}" for c in found if c not in declared]


@dataclass(frozen=True)
class _Text:
    """A text file, of which the whole is there and is UTF-8: its first chunk, its end, and how often it has a quote."""

    head: str
    ends_with: str
    quotes: int


def _text(path: Location) -> _Text:
    decoder = codecs.getincrementaldecoder("utf-8")()
    head = last = ""
    quotes = 0
    for chunk in _chunks(path):
        text = decoder.decode(chunk)
        head, last = head or text, text[-1:] or last
        quotes += chunk.count(b'"')
    decoder.decode(b"", final=True)
    return _Text(head.removeprefix("\ufeff"), last, quotes)


def _inspect_csv(path: Location, source: Source) -> str | None:
    text = _text(path)
    if not text.head:
        return "is empty: not even a header"
    header = next(csv.reader(io.StringIO(text.head), delimiter=source.options.get("sep", ",")), [])
    expected = list(source.columns)
    if header != expected:
        return _header_changes(header, expected)
    if text.ends_with not in ("\n", "\r"):
        return "does not end with a line end, as if it were cut: its last value may be half of one"
    if text.quotes % 2 and not {"quote", "escape"} & source.options.keys():
        return _open_quote(path, source)
    return None


def _header_changes(header: Sequence[str], expected: Sequence[str]) -> str:
    if not {*header} & {*expected}:
        return f"has no header: its first line is {','.join(header)[:80]!r}"
    return "; ".join(_changed(header, expected)) or f"has its columns in another order: {','.join(header)}"


def _open_quote(path: Location, source: Source) -> str | None:
    """Whether a quote opens a value and nothing closes it: all that follows would be read as that value."""
    csv.field_size_limit(sys.maxsize)  # a value may be as long as it likes
    with io.TextIOWrapper(unpacked(path), "utf-8", newline="") as lines:
        reader = csv.reader(lines, delimiter=source.options.get("sep", ","), strict=True)
        before = 0
        try:
            for _ in reader:
                before = reader.line_num
        except csv.Error as error:
            return f"has a quote that nothing closes after line {before} ({error})"
    return None


def _inspect_json(path: Location, source: Source) -> str | None:
    found: dict[str, None] = {}
    line = ""
    with io.TextIOWrapper(unpacked(path), "utf-8-sig") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # set aside as a row
                continue
            if isinstance(record, dict):
                found.update(dict.fromkeys(record))
    if not line:
        return "is empty"
    return "; ".join(_unknown(found, source.columns)) or None  # a record may leave out what is null


def _inspect_parquet(path: Location, source: Source) -> str | None:
    import pyarrow.parquet as pq
    from pyspark.sql.pandas.types import from_arrow_type

    with path.open("rb") as content, pq.ParquetFile(content, page_checksum_verification=True) as file:
        found = {one.name: from_arrow_type(one.type).simpleString() for one in file.schema_arrow}
        changes = _changed(found, source.columns)
        changes += [
            f"has column {c} as {found[c]}, declared {kind}"
            for c, kind in source.columns.items()
            if c in found and kind not in (found[c], *_READ_AS.get(found[c], ()))
        ]
        if not changes:
            for _ in file.iter_batches():  # a damaged page shows only when it is read
                pass
    return "; ".join(changes) or None


def parquet_rows(path: Location) -> int:
    """The rows that a Parquet file says it has; none where it cannot be read."""
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as content:
            return int(pq.read_metadata(content).num_rows)
    except (OSError, ValueError):  # pyarrow's errors are kinds of these
        return 0


# The wider types that Spark's Parquet reader can give a column without loss.
_READ_AS = {
    "tinyint": ("smallint", "int", "bigint"),
    "smallint": ("int", "bigint"),
    "int": ("bigint",),
    "float": ("double",),
}


INSPECTIONS = {"csv": _inspect_csv, "json": _inspect_json, "parquet": _inspect_parquet}
