"""A landed file before it is read: whether it is whole, readable and has the declared columns. Each gives a reason to reject it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lakehouse.declare import Source

CHUNK_BYTES = 1 << 20


def _chunks(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@dataclass(frozen=True)
class _Text:
    """A text file, of which the whole is there and is UTF-8: its first chunk, its end, and how often it has a quote."""

    head: str
    ends_with: str
    quotes: int


def _text(path: Path) -> _Text:
    decoder = codecs.getincrementaldecoder("utf-8")()
    head = last = ""
    quotes = 0
    for chunk in _chunks(path):
        text = decoder.decode(chunk)
        head, last = head or text, text[-1:] or last
        quotes += chunk.count(b'"')
    decoder.decode(b"", final=True)
    return _Text(head.removeprefix("\ufeff"), last, quotes)


def _inspect_csv(path: Path, source: Source) -> str | None:
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
    missing = [c for c in expected if c not in header]
    added = [c for c in header if c not in expected]
    if len(missing) == len(expected):
        return f"has no header: its first line is {','.join(header)[:80]!r}"
    if not missing and not added:
        return f"has its columns in another order: {','.join(header)}"
    changes = [f"misses column {c}" for c in missing] + [f"has an unknown column {c}" for c in added]
    return "; ".join(changes)


def _open_quote(path: Path, source: Source) -> str | None:
    """Whether a quote opens a value and nothing closes it: all that follows would be read as that value."""
    lines = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="")
    with lines:
        reader = csv.reader(lines, delimiter=source.options.get("sep", ","), strict=True)
        before = 0
        try:
            for _ in reader:
                before = reader.line_num
        except csv.Error as error:
            return f"has a quote that nothing closes after line {before} ({error})"
    return None


def _inspect_json(path: Path, source: Source) -> str | None:
    if not _text(path).head:
        return "is empty"
    found: dict[str, None] = {}
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # set aside as a row
                continue
            if isinstance(record, dict):
                found.update(dict.fromkeys(record))
    # A record may leave out what is null.
    return "; ".join(f"has an unknown column {c}" for c in found if c not in source.columns) or None


def _inspect_parquet(path: Path, source: Source) -> str | None:
    import pyarrow.parquet as pq
    from pyspark.sql.pandas.types import from_arrow_type

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        found = {one.name: from_arrow_type(one.type).simpleString() for one in file.schema_arrow}
        changes = [f"misses column {c}" for c in source.columns if c not in found]
        changes += [f"has an unknown column {c}" for c in found if c not in source.columns]
        changes += [
            f"has column {c} as {found[c]}, declared {kind}"
            for c, kind in source.columns.items()
            if c in found and kind not in (found[c], *_READ_AS.get(found[c], ()))
        ]
        if not changes:
            for _ in file.iter_batches():  # a damaged page shows only when it is read
                pass
    return "; ".join(changes) or None


def parquet_rows(path: Path) -> int:
    """The rows that a Parquet file says it has; none where it cannot be read."""
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
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
