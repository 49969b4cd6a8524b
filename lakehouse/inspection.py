"""A landed file before it is read: whether it is whole, readable and has columns that its source's contract takes."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from lakehouse import drift
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


@dataclass(frozen=True)
class Inspected:
    """Why a file cannot be taken, None where it can; and its columns in their order, with their types, where they are not those
    declared."""

    reason: str | None
    columns: Mapping[str, str] | None = None


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


def _inspect_csv(path: Location, source: Source) -> Inspected:
    text = _text(path)
    if not text.head:
        return Inspected("is empty: not even a header")
    found, reason = _header(text.head, source)
    if reason is None and text.ends_with not in ("\n", "\r"):
        reason = "does not end with a line end, as if it were cut: its last value may be half of one"
    if reason is None and text.quotes and not {"quote", "escape"} & source.options.keys():
        reason = _open_quote(path, source, odd=text.quotes % 2 == 1)
    return Inspected(reason, found)


def _header(head: str, source: Source) -> tuple[Mapping[str, str] | None, str | None]:
    """The columns that a text's first line names, where they are not the declared ones, and why it cannot be taken."""
    header = next(csv.reader(io.StringIO(head), delimiter=source.options.get("sep", ",")), [])
    if header == list(source.columns):
        return None, None
    if not {*header} & {*source.columns}:
        return None, f"has no header: its first line is {','.join(header)[:80]!r}"
    if doubled := sorted({c for c in header if header.count(c) > 1}):
        return None, f"has column {doubled[0]} twice"
    found = dict.fromkeys(header, "string")
    if {*found} == {*source.columns} and not source.contract.rescues:
        return None, f"has its columns in another order: {','.join(header)}"
    return found, drift.refused(source, found)


def _open_quote(path: Location, source: Source, odd: bool) -> str | None:
    """Whether a quote opens a value and nothing closes it: what follows, to the next quote or the end, would be read as that value.

    Where quotes are even in number the next one may open a value, too: then text follows the one that seems to close.
    """
    csv.field_size_limit(sys.maxsize)  # a value may be as long as it likes
    with io.TextIOWrapper(unpacked(path), "utf-8", newline="") as lines:
        reader = csv.reader(lines, delimiter=source.options.get("sep", ","), strict=True)
        before = 0
        while True:
            try:
                next(reader)
            except StopIteration:
                return None
            except csv.Error as error:
                if odd or reader.line_num > before + 1:
                    return f"has a quote that nothing closes after line {before} ({error})"
            before = reader.line_num


def _inspect_json(path: Location, source: Source) -> Inspected:
    with io.TextIOWrapper(unpacked(path), "utf-8-sig") as lines:
        found = _keys(lines)
    if found is None:
        return Inspected("is empty")
    return _judged(source, _json_columns(source, found))


def _keys(lines: Iterable[str]) -> dict[str, None] | None:
    """The keys of the records; None where there is no line."""
    found: dict[str, None] = {}
    line = ""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # set aside as a row
            continue
        if isinstance(record, dict):
            found.update(dict.fromkeys(record))
    return found if line else None


def _json_columns(source: Source, keys: Collection[str]) -> dict[str, str]:
    """A file's columns: the declared ones, as a record may leave out what is null, and the others as text."""
    return {**source.columns, **{key: "string" for key in keys if key not in source.columns}}


def _inspect_parquet(path: Location, source: Source) -> Inspected:
    import pyarrow.parquet as pq

    with path.open("rb") as content, pq.ParquetFile(content, page_checksum_verification=True) as file:
        judged = _judged(source, _parquet_columns(file))
        if doubled := sorted({c for c in file.schema_arrow.names if file.schema_arrow.names.count(c) > 1}):
            return Inspected(f"has column {doubled[0]} twice")
        if judged.reason is None:
            for _ in file.iter_batches():  # a damaged page shows only when it is read
                pass
    return judged


def _parquet_columns(file: Any) -> dict[str, str]:
    from pyspark.sql.pandas.types import from_arrow_type

    return {one.name: from_arrow_type(one.type).simpleString() for one in file.schema_arrow}


def _judged(source: Source, found: Mapping[str, str]) -> Inspected:
    return Inspected(drift.refused(source, found), None if drift.fits(source, found) else found)


def parquet_rows(path: Location) -> int:
    """The rows that a Parquet file says it has; none where it cannot be read."""
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as content:
            return int(pq.read_metadata(content).num_rows)
    except (OSError, ValueError):  # pyarrow's errors are kinds of these
        return 0


_INSPECTIONS = {"csv": _inspect_csv, "json": _inspect_json, "parquet": _inspect_parquet}


def inspect(path: Location, source: Source) -> Inspected:
    """Whether a file can be taken, and its columns."""
    return _INSPECTIONS[source.format](path, source)


def columns_at_first_sight(path: Location, source: Source) -> Mapping[str, str] | None:
    """The columns of a file that are not those declared, as far as its beginning (Parquet: its end) tells; None where they are.

    What cannot be read tells nothing: a run looks at the whole.
    """
    import pyarrow.parquet as pq

    try:
        if source.format == "parquet":
            with path.open("rb") as content, pq.ParquetFile(content) as file:
                return _judged(source, _parquet_columns(file)).columns
        head = codecs.getincrementaldecoder("utf-8")().decode(next(_chunks(path), b"")).removeprefix("\ufeff")
        if source.format == "csv":
            return _header(head, source)[0] if head else None
        return _judged(source, _json_columns(source, _keys(head.splitlines()) or ())).columns
    except (OSError, ValueError, EOFError, zlib.error):  # pyarrow's errors are kinds of these
        return None
