"""How a landed file's columns differ from those declared, and what the source's contract makes of that. Without Spark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from lakehouse.definitions.identifiers import COLUMN_PATTERN
from lakehouse.definitions.sources import RESCUED, Source

if TYPE_CHECKING:
    import pyarrow as pa

# The wider types that Spark's Parquet reader can give a column without loss.
_WIDER_TYPES = {
    "tinyint": ("smallint", "int", "bigint"),
    "smallint": ("int", "bigint"),
    "int": ("bigint",),
    "float": ("double",),
}
# A Parquet column of which the file has no value, nor a type.
VOID = "void"
_MAX_SHOWN = 5
# Spark's own Arrow files mark a struct that is one of these, by the metadata of its fields.
_MARKS = {b"variant", b"geometry", b"geography"}


@dataclass(frozen=True)
class SchemaDrift:
    """The columns of a file that are not declared, those that are and that it misses, those of another type, and the undeclared
    ones that could be a table's column only if upper and lower case told columns apart, each with the one that it is like."""

    new_columns: tuple[str, ...]
    missing_columns: tuple[str, ...]
    changed_types: tuple[str, ...]
    case_variants: Mapping[str, str]


def detect_drift(source: Source, file_columns: Mapping[str, str]) -> SchemaDrift:
    """How the columns of a file differ from the declared ones."""
    new = tuple(c for c in file_columns if c not in source.columns)
    first = {c.lower(): c for c in reversed([*source.columns, *new])}
    return SchemaDrift(
        new,
        tuple(c for c in source.columns if c not in file_columns),
        tuple(c for c, kind in source.columns.items() if c in file_columns and not can_read_as(file_columns[c], kind)),
        {c: first[c.lower()] for c in new if first[c.lower()] != c},
    )


def has_declared_schema(source: Source, file_columns: Mapping[str, str]) -> bool:
    """Whether a file can be read with the declared schema. A CSV file's columns count in their order."""
    in_order = source.format != "csv" or list(file_columns) == list(source.columns)
    typed = VOID not in file_columns.values() and not detect_drift(source, file_columns).changed_types
    return in_order and {*file_columns} == {*source.columns} and typed


def explain_rejection(source: Source, file_columns: Mapping[str, str]) -> str | None:
    """Why the source's contract rejects a file with these columns; None where it takes it."""
    contract, drift = source.contract, detect_drift(source, file_columns)
    said: list[str] = []
    if contract.missing_column == "fail":
        said += [f"misses column {c}" for c in drift.missing_columns]
    if contract.new_column == "fail":
        said += [f"has an unknown column {c}{_describe_case_variant(drift, c)}" for c in drift.new_columns]
    if contract.changed_type == "fail":
        said += [f"has column {c} as {file_columns[c]}, declared {source.columns[c]}" for c in drift.changed_types]
    return "; ".join(said) or None


def find_added_columns(source: Source, file_columns: Mapping[str, str]) -> dict[str, str]:
    """The new columns of a file that the contract adds to the bronze table, with the types that they came with."""
    if source.contract.new_column != "add":
        return {}
    drift = detect_drift(source, file_columns)
    # What begins with an underscore is the platform's own.
    good = (
        c
        for c in drift.new_columns
        if COLUMN_PATTERN.fullmatch(c) and c not in drift.case_variants and not c.startswith("_")
    )
    return {c: file_columns[c] for c in good if file_columns[c] != VOID}


def describe_drift(source: Source, file_columns: Mapping[str, str]) -> Iterator[str]:
    """What becomes of a taken file's columns, in words."""
    drift, adds = detect_drift(source, file_columns), find_added_columns(source, file_columns)
    for c in (c for c in drift.new_columns if file_columns[c] != VOID):
        yield f"adds {c} {adds[c]}" if c in adds else f"keeps {c}{_describe_case_variant(drift, c)} in {RESCUED}"
    for c in drift.missing_columns:
        yield f"leaves {c} null, which the files miss"
    for c in drift.changed_types:
        yield f"reads {c}, {file_columns[c]} in the files, as {source.columns[c]}; what that cannot hold is kept in {RESCUED}"


def summarize_drift(source: Source, files: Iterable[Mapping[str, str] | None]) -> tuple[str, ...]:
    """What becomes of the columns of a batch's files, each text once, with the number of files."""
    said = Counter(text for found in files if found for text in describe_drift(source, found))
    return tuple(f"{text} ({count} file{'s' if count > 1 else ''})" for text, count in said.items())


def preview_drift(
    source: Source, files: Iterable[tuple[str, str | None, Mapping[str, str] | None]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What will become of files, each with the reason to reject it or its columns, in words, and the declared columns that will not
    hold what they held."""
    files = list(files)
    taken = [found for _, reason, found in files if found and not reason]
    said = [f"rejects {path}: {reason}" for path, reason, _ in files if reason]
    shown = [*said[:_MAX_SHOWN], *([f"rejects {len(said) - _MAX_SHOWN} more files"] if len(said) > _MAX_SHOWN else [])]
    drifts = [detect_drift(source, found) for found in taken]
    changed = dict.fromkeys(c for one in drifts for c in (*one.missing_columns, *one.changed_types))
    return (*summarize_drift(source, taken), *shown), tuple(changed)


def _describe_case_variant(drift: SchemaDrift, column: str) -> str:
    return f" (like {drift.case_variants[column]} but for case)" if column in drift.case_variants else ""


def can_read_as(file_type: str, declared_type: str) -> bool:
    """Whether every value of one type is one of the other; of a column without any value that is so."""
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
