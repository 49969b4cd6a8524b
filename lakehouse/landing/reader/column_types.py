"""Arrow types of declared columns, and the declared types that hold the values of a file's Arrow types."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.types as arrow

from lakehouse.definitions.data_types import TYPES, VOID, DataType, parse_type
from lakehouse.definitions.identifiers import COLUMN_PATTERN
from lakehouse.landing import schema_drift
from lakehouse.landing.reader.extension_types import get_storage_type

_SIMPLE = {
    VOID: pa.null(),
    "string": pa.string(),
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
    "timestamp_ntz": pa.timestamp("us"),
    "binary": pa.binary(),
}
_UNSIGNED = {pa.uint8(): "smallint", pa.uint16(): "int", pa.uint32(): "bigint", pa.uint64(): "decimal(20,0)"}
_MAX_PRECISION = 38


def to_arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type of a declared Spark SQL type.

    Raises:
        ValueError: there is no such type.
    """
    try:
        return _convert(parse_type(kind))
    except ValueError as error:
        raise ValueError(f"{kind!r} is not a type, {error}") from None


def _convert(kind: DataType) -> pa.DataType:
    if kind.name == "decimal":
        return pa.decimal128(kind.precision, kind.scale)
    children = [(name, _convert(child)) for name, child in kind.children]
    match kind.name:
        case "struct":
            return pa.struct(children)
        case "map":
            return pa.map_(children[0][1], children[1][1])
        case "array":
            return pa.list_(children[0][1])
    return _SIMPLE[kind.name]


def to_sql_type(kind: pa.DataType) -> str:
    """Return the narrowest declared type that holds every value of an Arrow type, but for digits below a microsecond.

    Raises:
        TypeError: no declared type holds the values.
    """
    kind = get_storage_type(kind)
    nested: Any = kind
    if kind in _UNSIGNED:
        return _UNSIGNED[kind]
    if arrow.is_float16(kind):
        return "float"
    if arrow.is_date64(kind):
        return "date"
    if arrow.is_string_view(kind) or arrow.is_binary_view(kind):
        return "string" if arrow.is_string_view(kind) else "binary"
    if arrow.is_dictionary(kind) or arrow.is_run_end_encoded(kind):
        return to_sql_type(nested.value_type)
    if arrow.is_map(kind):
        return f"map<{to_sql_type(nested.key_type)},{to_sql_type(nested.item_type)}>"
    if arrow.is_nested(kind) and not arrow.is_struct(kind) and not arrow.is_union(kind):
        return f"array<{to_sql_type(nested.value_type)}>"
    if arrow.is_struct(kind):
        schema_drift.to_sql_type(_without_children(nested))  # refuses the marks of Spark's own types
        return f"struct<{','.join(f'{field.name}:{to_sql_type(field.type)}' for field in nested)}>"
    if arrow.is_duration(kind) or arrow.is_time(kind) or (arrow.is_decimal(kind) and nested.precision > _MAX_PRECISION):
        raise TypeError(f"no declared type has the values of {kind}")
    return schema_drift.to_sql_type(kind)


def _without_children(kind: Any) -> pa.DataType:
    """Return a struct type with the names and marks of its fields, all strings."""
    return pa.struct([pa.field(field.name, pa.string(), metadata=field.metadata) for field in kind])


def name_type(kind: pa.DataType, declared: str | None) -> str:
    """Return the declared type of a file's column, if it has the column's values; else the name of the file's type."""
    try:
        name = to_sql_type(kind)
        if declared is None or name == VOID:
            return name
        return declared if _has_same_values(kind, to_arrow_type(declared)) else name
    except TypeError:
        return str(kind)


def is_table_type(kind: Any) -> bool:
    """Return whether a table can have a column of a file's type. Its structs have plain field names then."""
    kind = get_storage_type(kind)
    if arrow.is_struct(kind):
        return all(COLUMN_PATTERN.fullmatch(field.name) and is_table_type(field.type) for field in kind)
    if arrow.is_map(kind):
        return is_table_type(kind.key_type) and is_table_type(kind.item_type)
    if arrow.is_nested(kind) or arrow.is_dictionary(kind):
        return not arrow.is_union(kind) and is_table_type(kind.value_type)
    try:
        name = schema_drift.to_sql_type(kind)
    except TypeError:
        return False
    is_decimal = arrow.is_decimal(kind) and kind.precision <= _MAX_PRECISION
    return name in TYPES or name == VOID or is_decimal


def _has_same_values(kind: Any, declared: Any) -> bool:
    """Return whether two types have the same values, whatever their encoding, unit and order of fields."""
    kind = get_storage_type(kind)
    if arrow.is_dictionary(kind):
        return _has_same_values(kind.value_type, declared)
    if arrow.is_struct(declared):
        fields = {field.name: field.type for field in kind} if arrow.is_struct(kind) else {}
        return {field.name for field in declared} == fields.keys() and all(
            _has_same_values(fields[field.name], field.type) for field in declared
        )
    if arrow.is_map(declared):
        return (
            arrow.is_map(kind)
            and _has_same_values(kind.key_type, declared.key_type)
            and _has_same_values(kind.item_type, declared.item_type)
        )
    if arrow.is_list(declared):
        is_list = arrow.is_nested(kind) and not (arrow.is_struct(kind) or arrow.is_map(kind) or arrow.is_union(kind))
        return is_list and _has_same_values(kind.value_type, declared.value_type)
    if arrow.is_timestamp(kind):
        return arrow.is_timestamp(declared) and (declared.tz is not None or kind.tz is None)
    return not arrow.is_nested(kind) and to_arrow_type(to_sql_type(kind)) == declared
