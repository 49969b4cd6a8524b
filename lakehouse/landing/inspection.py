"""A landed file before it is read: whether it is whole, readable and has columns that its source's contract takes."""

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
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import TYPES
from lakehouse.errors import StorageError
from lakehouse.landing import conformance
from lakehouse.storage.location import Location

CHUNK_BYTES = 1 << 20


def open_decompressed(path: Location) -> BinaryIO:
    """A file's content, unpacked where its name says that it is packed."""
    content = path.open("rb")
    return cast(BinaryIO, gzip.open(content, "rb")) if path.suffix == ".gz" else content


def _read_chunks(path: Location) -> Iterator[bytes]:
    with open_decompressed(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


@dataclass(frozen=True)
class Inspection:
    """Why a file cannot be taken, None where it can; and its columns in their order, with their types, where they are not those
    declared."""

    reason: str | None
    columns: Mapping[str, str] | None = None


@dataclass(frozen=True)
class _TextSummary:
    """A text file, of which the whole is there and is UTF-8: its first chunk, its end, and how often it has a quote."""

    head: str
    last_character: str
    quote_count: int


def _scan_text(path: Location) -> _TextSummary:
    decoder = codecs.getincrementaldecoder("utf-8")()
    head = last = ""
    quotes = 0
    for chunk in _read_chunks(path):
        text = decoder.decode(chunk)
        head, last = head or text, text[-1:] or last
        quotes += chunk.count(b'"')
    decoder.decode(b"", final=True)
    return _TextSummary(head.removeprefix("\ufeff"), last, quotes)


def _inspect_csv(path: Location, source: Source) -> Inspection:
    text = _scan_text(path)
    if not text.head:
        return Inspection("is empty: not even a header")
    found, reason = _check_header(text.head, source)
    if reason is None and text.last_character not in ("\n", "\r"):
        reason = "does not end with a line end, as if it were cut: its last value may be half of one"
    if reason is None and text.quote_count and not {"quote", "escape"} & source.options.keys():
        reason = _find_open_quote(path, source, odd=text.quote_count % 2 == 1)
    return Inspection(reason, found)


def _check_header(head: str, source: Source) -> tuple[Mapping[str, str] | None, str | None]:
    """The columns that a text's first line names, where they are not the declared ones, and why it cannot be taken."""
    header = next(csv.reader(io.StringIO(head), delimiter=source.options.get("sep", ",")), [])
    if header == list(source.columns):
        return None, None
    if not {*header} & {*source.columns}:
        return None, f"has no header: its first line is {','.join(header)[:80]!r}"
    if doubled := sorted({c for c in header if header.count(c) > 1}):
        return None, f"has column {doubled[0]} twice"
    found = dict.fromkeys(header, "string")
    if {*found} == {*source.columns} and not source.contract.has_rescued_column:
        return None, f"has its columns in another order: {','.join(header)}"
    return found, conformance.explain_rejection(source, found)


def _find_open_quote(path: Location, source: Source, odd: bool) -> str | None:
    """Whether a quote opens a value and nothing closes it: what follows, to the next quote or the end, would be read as that value.

    Where quotes are even in number the next one may open a value, too: then text follows the one that seems to close.
    """
    csv.field_size_limit(sys.maxsize)  # a value may be as long as it likes
    with io.TextIOWrapper(open_decompressed(path), "utf-8", newline="") as lines:
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


def _inspect_json(path: Location, source: Source) -> Inspection:
    with io.TextIOWrapper(open_decompressed(path), "utf-8-sig") as lines:
        found, reason = _collect_keys(lines)
    if found is None:
        return Inspection("is empty")
    return Inspection(reason) if reason else _apply_contract(source, _build_json_columns(source, found))


def _collect_keys(lines: Iterable[str]) -> tuple[dict[str, None] | None, str | None]:
    """The keys of the records, None where there is no line; and what is wrong with a line that Spark would read otherwise."""
    found: dict[str, None] = {}
    number = 0
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data" and line[: error.pos].lstrip().startswith(("{", "[")):
                return found, f"has more than one record in line {number}"
            continue  # set aside as a row
        except ValueError:
            continue
        if isinstance(record, list) and record:
            return found, f"has a list in line {number}, where there is to be one record"
        found.update(dict.fromkeys(record if isinstance(record, dict) else ()))
    return (found if number else None), None


def _build_json_columns(source: Source, keys: Collection[str]) -> dict[str, str]:
    """A file's columns: the declared ones, as a record may leave out what is null, and the others as text."""
    return {**source.columns, **{key: "string" for key in keys if key not in source.columns}}


def _inspect_parquet(path: Location, source: Source) -> Inspection:
    import pyarrow.parquet as pq

    with path.open("rb") as content, pq.ParquetFile(content, page_checksum_verification=True) as file:
        judged = _check_parquet_schema(file, source)
        if judged.reason is None:
            for _ in file.iter_batches():  # a damaged page shows only when it is read
                pass
    return judged


def _check_parquet_schema(file: Any, source: Source) -> Inspection:
    names = file.schema_arrow.names
    if doubled := sorted({c for c in names if names.count(c) > 1}):
        return Inspection(f"has column {doubled[0]} twice")
    types = {field.name: field.type for field in file.schema_arrow}
    found = {name: conformance.to_sql_type(kind) for name, kind in types.items()}
    judged = _apply_contract(source, found)
    if judged.reason is None:
        # What is read although it is not as declared must have a type that every reader knows.
        odd = [
            c
            for c, kind in found.items()
            if kind not in (source.columns.get(c), conformance.VOID) and not _is_readable(types[c])
        ]
        if odd:
            return Inspection(f"has column {odd[0]} as {found[odd[0]]}, which cannot be read", judged.columns)
    return judged


def _is_readable(kind: Any) -> bool:
    """Return whether every reader knows an Arrow type: it can be declared, and the fields of its structs have plain names."""
    import pyarrow.types as arrow

    if arrow.is_struct(kind):
        return all(COLUMN_PATTERN.fullmatch(field.name) and _is_readable(field.type) for field in kind)
    if arrow.is_map(kind):
        return _is_readable(kind.key_type) and _is_readable(kind.item_type)
    if arrow.is_nested(kind) or arrow.is_dictionary(kind):
        return _is_readable(kind.value_type)
    name = conformance.to_sql_type(kind)
    return name in TYPES or name.startswith("decimal(")


def _apply_contract(source: Source, file_columns: Mapping[str, str]) -> Inspection:
    return Inspection(
        conformance.explain_rejection(source, file_columns),
        None if conformance.has_declared_schema(source, file_columns) else file_columns,
    )


def count_parquet_rows(path: Location) -> int:
    """The rows that a Parquet file says it has; none where it cannot be read."""
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as content:
            return int(pq.read_metadata(content).num_rows)
    except (OSError, ValueError):  # pyarrow's errors are kinds of these
        return 0


_INSPECTORS = {"csv": _inspect_csv, "json": _inspect_json, "parquet": _inspect_parquet}


def inspect_file(path: Location, source: Source) -> Inspection:
    """Whether a file can be taken, and its columns."""
    return _INSPECTORS[source.format](path, source)


def preview_file(path: Location, source: Source) -> Inspection:
    """What a file's beginning (Parquet: its end) tells of its columns. What cannot be read tells nothing: a run looks at the whole.

    Raises:
        StorageError: the store cannot be reached.
    """
    import pyarrow.parquet as pq

    try:
        if source.format == "parquet":
            with path.open("rb") as content, pq.ParquetFile(content) as file:
                return _check_parquet_schema(file, source)
        head = codecs.getincrementaldecoder("utf-8")().decode(next(_read_chunks(path), b"")).removeprefix("\ufeff")
        if source.format == "csv":
            found, reason = _check_header(head, source) if head else (None, "is empty: not even a header")
            return Inspection(reason, found)
        keys, reason = _collect_keys(head.splitlines()[:-1])  # the last may be cut
        return Inspection(reason) if reason else _apply_contract(source, _build_json_columns(source, keys or ()))
    except StorageError:
        raise
    except Exception:  # whatever a reader raises on a broken file
        return Inspection(None)
