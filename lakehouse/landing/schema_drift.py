"""Compare the columns of a landed file with the declared ones, by the contract of the source. Without Spark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from lakehouse.definitions.data_types import VOID
from lakehouse.definitions.identifiers import COLUMN_PATTERN
from lakehouse.definitions.sources import RESCUED, Source

if TYPE_CHECKING:
    import pyarrow as pa

# The types to which Spark's Parquet reader can widen a type without loss.
_WIDER_TYPES = {
    "tinyint": ("smallint", "int", "bigint"),
    "smallint": ("int", "bigint"),
    "int": ("bigint",),
    "float": ("double",),
}
_MAX_SHOWN = 5
# Keys in the metadata of a struct's fields. Spark's own Arrow files mark structs of these types with them.
_MARKS = {b"variant", b"geometry", b"geography"}


@dataclass(frozen=True)
class SchemaDrift:
    """The differences between the columns of a file and the declared ones.

    Attributes:
        new_columns: columns of the file that are not declared.
        missing_columns: declared columns that the file lacks.
        changed_types: declared columns that have a type in the file which cannot be read as the declared one.
        case_variants: new columns that differ from another column only in case, each with that column.
    """

    new_columns: tuple[str, ...]
    missing_columns: tuple[str, ...]
    changed_types: tuple[str, ...]
    case_variants: Mapping[str, str]


def detect_drift(source: Source, file_columns: Mapping[str, str]) -> SchemaDrift:
    """Compare the columns of a file with the declared ones."""
    new = tuple(c for c in file_columns if c not in source.columns)
    first = {c.lower(): c for c in reversed([*source.columns, *new])}
    return SchemaDrift(
        new,
        tuple(c for c in source.columns if c not in file_columns),
        tuple(c for c, kind in source.columns.items() if c in file_columns and not can_read_as(file_columns[c], kind)),
        {c: first[c.lower()] for c in new if first[c.lower()] != c},
    )


def has_declared_schema(source: Source, file_columns: Mapping[str, str]) -> bool:
    """Return whether a file can be read with the declared schema. The order of columns matters in a CSV file."""
    in_order = source.format != "csv" or list(file_columns) == list(source.columns)
    typed = VOID not in file_columns.values() and not detect_drift(source, file_columns).changed_types
    return in_order and {*file_columns} == {*source.columns} and typed


def explain_rejection(source: Source, file_columns: Mapping[str, str]) -> str | None:
    """Return the reason why the contract rejects a file with these columns; None if it accepts the file."""
    contract, drift = source.contract, detect_drift(source, file_columns)
    reasons: list[str] = []
    if contract.missing_column == "fail":
        reasons += [f"lacks column {c}" for c in drift.missing_columns]
    if contract.new_column == "fail":
        reasons += [f"has an unknown column {c}{_describe_case_variant(drift, c)}" for c in drift.new_columns]
    if contract.changed_type == "fail":
        reasons += [f"has column {c} as {file_columns[c]}, declared {source.columns[c]}" for c in drift.changed_types]
    return "; ".join(reasons) or None


def find_added_columns(source: Source, file_columns: Mapping[str, str]) -> dict[str, str]:
    """Return the new columns of a file that the contract adds to the bronze table, with the types of the file."""
    if source.contract.new_column != "add":
        return {}
    drift = detect_drift(source, file_columns)
    # A leading underscore is reserved for columns of the platform.
    valid = (
        c
        for c in drift.new_columns
        if COLUMN_PATTERN.fullmatch(c) and c not in drift.case_variants and not c.startswith("_")
    )
    return {c: file_columns[c] for c in valid if file_columns[c] != VOID}


def describe_drift(source: Source, file_columns: Mapping[str, str]) -> Iterator[str]:
    """Yield in words each difference of an accepted file and its effect."""
    drift, added = detect_drift(source, file_columns), find_added_columns(source, file_columns)
    for c in (c for c in drift.new_columns if file_columns[c] != VOID):
        yield f"adds {c} {added[c]}" if c in added else f"keeps {c}{_describe_case_variant(drift, c)} in {RESCUED}"
    for c in drift.missing_columns:
        yield f"leaves {c} null, as the files lack it"
    for c in drift.changed_types:
        yield f"reads {c} ({file_columns[c]} in the files) as {source.columns[c]}, and keeps other values in {RESCUED}"


def summarize_drift(source: Source, files: Iterable[Mapping[str, str] | None]) -> tuple[str, ...]:
    """Describe the differences of a batch's accepted files, each text once with its number of files."""
    counts = Counter(text for columns in files if columns for text in describe_drift(source, columns))
    return tuple(f"{text} ({count} file{'s' if count > 1 else ''})" for text, count in counts.items())


def preview_drift(
    source: Source, files: Iterable[tuple[str, str | None, Mapping[str, str] | None]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Describe the effect of files before they are read.

    Args:
        files: for each file its path, the reason for its rejection, and its columns if they are not the declared ones.

    Returns:
        The texts, and the declared columns that are missing or have another type in an accepted file.
    """
    files = list(files)
    accepted = [columns for _, reason, columns in files if columns and not reason]
    rejections = [f"rejects {path}: {reason}" for path, reason, _ in files if reason]
    more = len(rejections) - _MAX_SHOWN
    shown = [*rejections[:_MAX_SHOWN], *([f"rejects {more} more files"] if more > 0 else [])]
    drifts = [detect_drift(source, columns) for columns in accepted]
    changed = dict.fromkeys(c for drift in drifts for c in (*drift.missing_columns, *drift.changed_types))
    return (*summarize_drift(source, accepted), *shown), tuple(changed)


def _describe_case_variant(drift: SchemaDrift, column: str) -> str:
    return f" (differs from {drift.case_variants[column]} only in case)" if column in drift.case_variants else ""


def can_read_as(file_type: str, declared_type: str) -> bool:
    """Return whether the declared type holds every value of the file's type. The void type fits all types."""
    return file_type in (declared_type, VOID) or declared_type in _WIDER_TYPES.get(file_type, ())


def to_sql_type(kind: pa.DataType) -> str:
    """Return the name of an Arrow type in Spark SQL, by the rules of Spark's own conversion.

    Raises:
        TypeError: Spark SQL has no such type.
    """
    import pyarrow.types as arrow

    nested: Any = kind  # pyarrow's stubs do not narrow a type
    if name := _list_simple_types().get(kind):
        return name
    if arrow.is_decimal(kind):
        return f"decimal({nested.precision},{nested.scale})"
    if arrow.is_timestamp(kind):
        return "timestamp"
    if arrow.is_fixed_size_binary(kind):
        return "binary"
    if arrow.is_time64(kind):
        return "time(6)"
    if arrow.is_duration(kind):
        return "interval day to second"
    if arrow.is_dictionary(kind):
        return to_sql_type(nested.value_type)
    if arrow.is_list(kind) or arrow.is_large_list(kind) or arrow.is_fixed_size_list(kind):
        return f"array<{to_sql_type(nested.value_type)}>"
    if arrow.is_map(kind):
        return f"map<{to_sql_type(nested.key_type)},{to_sql_type(nested.item_type)}>"
    if arrow.is_struct(kind) and not any(_MARKS & (field.metadata or {}).keys() for field in nested):
        return f"struct<{','.join(f'{field.name}:{to_sql_type(field.type)}' for field in nested)}>"
    raise TypeError(f"Spark SQL has no type for {kind}")


@cache
def _list_simple_types() -> Mapping[pa.DataType, str]:
    import pyarrow as pa

    return {
        pa.null(): VOID,
        pa.bool_(): "boolean",
        pa.int8(): "tinyint",
        pa.int16(): "smallint",
        pa.int32(): "int",
        pa.int64(): "bigint",
        pa.float32(): "float",
        pa.float64(): "double",
        pa.string(): "string",
        pa.large_string(): "string",
        pa.binary(): "binary",
        pa.large_binary(): "binary",
        pa.date32(): "date",
    }
