"""Inspect a landed file before Spark reads it: complete, readable, with columns that the contract accepts."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from lakehouse.definitions.identifiers import COLUMN_PATTERN
from lakehouse.definitions.options import get_quote, get_separator
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import TYPES
from lakehouse.errors import StorageError
from lakehouse.landing import schema_drift
from lakehouse.storage.location import Location

CHUNK_BYTES = 1 << 20


def open_decompressed(path: Location) -> BinaryIO:
    """Open a file, and decompress it if its name ends in .gz."""
    content = path.open("rb")
    return cast(BinaryIO, gzip.open(content, "rb")) if path.suffix == ".gz" else content


def _read_chunks(path: Location) -> Iterator[bytes]:
    with open_decompressed(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@dataclass(frozen=True)
class Inspection:
    """The result of an inspection.

    Attributes:
        reason: the reason to reject the file, or None.
        columns: the columns in order with their types, if they are not the declared ones.
    """

    reason: str | None
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True)
class _TextSummary:
    """The first chunk, the last character and the number of quotes of a complete text file in UTF-8."""

    head: str
    last_character: str
    quote_count: int


def _scan_text(path: Location, quote: str) -> _TextSummary:
    decoder = codecs.getincrementaldecoder("utf-8")()
    head = last = ""
    quotes = 0
    for chunk in _read_chunks(path):
        text = decoder.decode(chunk)
        head, last = head or text, text[-1:] or last
        quotes += chunk.count(quote.encode())
    decoder.decode(b"", final=True)
    return _TextSummary(head.removeprefix("\ufeff"), last, quotes)


def _inspect_csv(path: Location, source: Source) -> Inspection:
    text = _scan_text(path, get_quote(source.options))
    if not text.head:
        return Inspection("is empty: not even a header")
    columns, reason = _read_header(text.head, source)
    if reason is None and text.last_character not in ("\n", "\r"):
        reason = "does not end with a line end; it may be cut within its last value"
    if reason is None and text.quote_count and source.options.get("escape") in (None, get_quote(source.options)):
        reason = _find_open_quote(path, source, odd=text.quote_count % 2 == 1)
    return Inspection(reason, columns)


def _read_header(head: str, source: Source) -> tuple[Mapping[str, str] | None, str | None]:
    """Read the first line of a text.

    Returns:
        The columns if they are not the declared ones, and the reason to reject the file.
    """
    labels = {label: column for column, label in source.header_names.items()}
    header = [labels.get(label, label) for label in next(_read_records(io.StringIO(head), source), [])]
    if header == list(source.columns):
        return None, None
    if not {*header} & {*source.columns}:
        return None, f"has no header: its first line is {','.join(header)[:80]!r}"
    if duplicates := sorted({c for c in header if header.count(c) > 1}):
        return None, f"has column {duplicates[0]} twice"
    columns = dict.fromkeys(header, "string")
    if {*columns} == {*source.columns} and not source.contract.has_rescued_column:
        return None, f"has its columns in another order: {','.join(header)}"
    return columns, schema_drift.explain_rejection(source, columns)


def _read_records(lines: Iterable[str], source: Source, strict: bool = False) -> Any:
    """Return the standard library's reader, which also counts lines."""
    separator, quote = get_separator(source.options), get_quote(source.options)
    return csv.reader(lines, delimiter=separator, quotechar=quote, strict=strict)


def _find_open_quote(path: Location, source: Source, odd: bool) -> str | None:
    """Return the line of a quote that opens a value and is never closed; or None.

    A reader would take all text up to the next quote or the end as one value. If the number of quotes is even, the
    next quote opens another value. Then text follows the quote that seems to close the first value.
    """
    csv.field_size_limit(sys.maxsize)  # the length of a value has no limit
    with io.TextIOWrapper(open_decompressed(path), "utf-8", newline="") as lines:
        reader = _read_records(lines, source, strict=True)
        before = 0
        while True:
            try:
                next(reader)
            except StopIteration:
                return None
            except csv.Error as error:
                if odd or reader.line_num > before + 1:
                    return f"has a quote that is never closed, after line {before} ({error})"
            before = reader.line_num


def _inspect_json(path: Location, source: Source) -> Inspection:
    with io.TextIOWrapper(open_decompressed(path), "utf-8-sig") as lines:
        keys, reason = _collect_keys(lines)
    if keys is None:
        return Inspection("is empty")
    return Inspection(reason) if reason else _apply_contract(source, _build_json_columns(source, keys))


def _collect_keys(lines: Iterable[str]) -> tuple[dict[str, None] | None, str | None]:
    """Collect the keys of the records.

    Returns:
        The keys, or None for a text without lines; and the problem of a line that Spark would read differently.
    """
    keys: dict[str, None] = {}
    number = 0
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data" and line[: error.pos].lstrip().startswith(("{", "[")):
                return keys, f"has more than one record in line {number}"
            continue  # The row is quarantined later.
        except ValueError:
            continue
        if isinstance(record, list) and record:
            return keys, f"has a list in line {number} instead of one record"
        keys.update(dict.fromkeys(record if isinstance(record, dict) else ()))
    return (keys if number else None), None


def _build_json_columns(source: Source, keys: Collection[str]) -> dict[str, str]:
    """Return all declared columns, as a record may omit nulls, and the other keys as strings."""
    return {**source.columns, **{key: "string" for key in keys if key not in source.columns}}


def _inspect_parquet(path: Location, source: Source) -> Inspection:
    import pyarrow.parquet as pq

    with path.open("rb") as content, pq.ParquetFile(content, page_checksum_verification=True) as file:
        inspection = _inspect_parquet_schema(file, source)
        if inspection.reason is None:
            for _ in file.iter_batches():  # only a read detects a damaged page
                pass
    return inspection


def _inspect_parquet_schema(file: Any, source: Source) -> Inspection:
    names = file.schema_arrow.names
    if duplicates := sorted({c for c in names if names.count(c) > 1}):
        return Inspection(f"has column {duplicates[0]} twice")
    types = {field.name: field.type for field in file.schema_arrow}
    columns = {name: schema_drift.to_sql_type(kind) for name, kind in types.items()}
    inspection = _apply_contract(source, columns)
    if inspection.reason is None:
        # A column with another type than the declared one needs a type that every reader knows.
        unsupported = [
            c
            for c, kind in columns.items()
            if kind not in (source.columns.get(c), schema_drift.VOID) and not _is_readable(types[c])
        ]
        if unsupported:
            c = unsupported[0]
            return Inspection(f"has column {c} as {columns[c]}, which cannot be read", inspection.columns)
    return inspection


def _is_readable(kind: Any) -> bool:
    """Return whether every reader knows an Arrow type: it can be declared, and its structs have plain field names."""
    import pyarrow.types as arrow

    if arrow.is_struct(kind):
        return all(COLUMN_PATTERN.fullmatch(field.name) and _is_readable(field.type) for field in kind)
    if arrow.is_map(kind):
        return _is_readable(kind.key_type) and _is_readable(kind.item_type)
    if arrow.is_nested(kind) or arrow.is_dictionary(kind):
        return _is_readable(kind.value_type)
    name = schema_drift.to_sql_type(kind)
    return name in TYPES or name.startswith("decimal(")


def _apply_contract(source: Source, file_columns: Mapping[str, str]) -> Inspection:
    return Inspection(
        schema_drift.explain_rejection(source, file_columns),
        None if schema_drift.has_declared_schema(source, file_columns) else file_columns,
    )


def count_parquet_rows(path: Location) -> int:
    """Return the number of rows in the metadata of a Parquet file; 0 if the file cannot be read."""
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as content:
            return int(pq.read_metadata(content).num_rows)
    except (OSError, ValueError):  # pyarrow's errors are subclasses of these
        return 0


_INSPECTORS = {"csv": _inspect_csv, "json": _inspect_json, "parquet": _inspect_parquet}


def inspect_file(path: Location, source: Source) -> Inspection:
    """Read a whole file, and return the reason to reject it and its columns."""
    return _INSPECTORS[source.format](path, source)


def preview_file(path: Location, source: Source) -> Inspection:
    """Inspect the columns in the first bytes of a file, or in the footer of a Parquet file.

    An unreadable file gives an empty result, as a run inspects the whole file later.

    Raises:
        StorageError: the store cannot be reached.
    """
    import pyarrow.parquet as pq

    try:
        if source.format == "parquet":
            with path.open("rb") as content, pq.ParquetFile(content) as file:
                return _inspect_parquet_schema(file, source)
        head = codecs.getincrementaldecoder("utf-8")().decode(next(_read_chunks(path), b"")).removeprefix("\ufeff")
        if source.format == "csv":
            columns, reason = _read_header(head, source) if head else (None, "is empty: not even a header")
            return Inspection(reason, columns)
        keys, reason = _collect_keys(head.splitlines()[:-1])  # the last line may be incomplete
        return Inspection(reason) if reason else _apply_contract(source, _build_json_columns(source, keys or ()))
    except StorageError:
        raise
    except Exception:  # A reader may raise anything on a damaged file.
        return Inspection(None)
