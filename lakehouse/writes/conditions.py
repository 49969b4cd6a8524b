"""Conditions on many columns, and equality and ranges of values. Column in, Column out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import and_, or_
from typing import TYPE_CHECKING, Any

import pyarrow.types as arrow
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, MapType, StructType

from lakehouse.landing.reader.column_types import to_arrow_type

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType

# The first and the last value that every reader can hold. Delta's own range is wider than that of Python and of SQL.
_CALENDAR = {
    "date": ("DATE'0001-01-01'", "DATE'9999-12-31'"),
    "timestamp": ("TIMESTAMP'0001-01-01 00:00:00Z'", "TIMESTAMP'9999-12-31 23:59:59.999999Z'"),
    "timestamp_ntz": ("TIMESTAMP_NTZ'0001-01-01 00:00:00'", "TIMESTAMP_NTZ'9999-12-31 23:59:59.999999'"),
}


def all_of(conditions: Sequence[Column]) -> Column:
    """Return a condition that is true where every condition is."""
    return _combine(conditions, and_) if conditions else F.lit(True)


def any_of(conditions: Sequence[Column]) -> Column:
    """Return a condition that is true where one of the conditions is."""
    return _combine(conditions, or_) if conditions else F.lit(False)


def _combine(conditions: Sequence[Column], operator: Callable[[Column, Column], Column]) -> Column:
    """Combine conditions in a balanced tree: a chain of hundreds overflows the stack of Spark's optimizer."""
    if len(conditions) == 1:
        return conditions[0]
    middle = len(conditions) // 2
    return operator(_combine(conditions[:middle], operator), _combine(conditions[middle:], operator))


def make_comparable(value: Column, kind: DataType) -> Column:
    """Return a value that is equal to another one where the values are. Spark compares no maps.

    Maps are equal if they have the same entries, in any order. So a map is compared as its sorted entries, at any
    depth. A value without maps stays as it is.
    """
    if not _has_map(kind):
        return value
    if isinstance(kind, MapType):
        return F.sort_array(F.transform(F.map_entries(value), lambda entry: _make_comparable_entry(entry, kind)))
    if isinstance(kind, ArrayType):
        return F.transform(value, lambda item: make_comparable(item, kind.elementType))
    assert isinstance(kind, StructType)
    fields = [make_comparable(value.getField(f.name), f.dataType).alias(f.name) for f in kind.fields]
    return F.when(value.isNotNull(), F.struct(*fields))


def _make_comparable_entry(entry: Column, kind: MapType) -> Column:
    value = make_comparable(entry.getField("value"), kind.valueType)
    return F.struct(entry.getField("key").alias("key"), value.alias("value"))


def _has_map(kind: DataType) -> bool:
    if isinstance(kind, ArrayType):
        return _has_map(kind.elementType)
    if isinstance(kind, StructType):
        return any(_has_map(field.dataType) for field in kind.fields)
    return isinstance(kind, MapType)


def is_beyond_calendar(column: str, kind: str) -> Column | None:
    """Return a condition for the values outside the years 1 to 9999, at any depth; None for a type without dates.

    Such a value is valid in Spark, but not in Python, nor for other readers of the table.
    """
    arrow_type = to_arrow_type(kind)
    return _build_calendar_condition(F.col(column), arrow_type) if _has_dates(arrow_type) else None


def _has_dates(kind: Any) -> bool:
    if arrow.is_nested(kind):
        return any(_has_dates(kind.field(at).type) for at in range(kind.num_fields))
    return bool(arrow.is_date(kind) or arrow.is_timestamp(kind))


def _build_calendar_condition(value: Column, kind: Any) -> Column:
    """Build the condition for a value of a type with dates."""
    if arrow.is_map(kind):
        parts = [(F.map_keys(value), kind.key_type), (F.map_values(value), kind.item_type)]
        return any_of([_build_element_condition(*part) for part in parts if _has_dates(part[1])])
    if arrow.is_list(kind):
        return _build_element_condition(value, kind.value_type)
    if arrow.is_struct(kind):
        fields = [field for field in kind if _has_dates(field.type)]
        return any_of([_build_calendar_condition(value.getField(field.name), field.type) for field in fields])
    name = "date" if arrow.is_date(kind) else "timestamp" if kind.tz else "timestamp_ntz"
    first, last = map(F.expr, _CALENDAR[name])
    return F.coalesce(~value.between(first, last), F.lit(False))


def _build_element_condition(values: Column, kind: Any) -> Column:
    """Build the condition for an array with an element beyond the calendar."""
    return F.coalesce(F.exists(values, lambda value: _build_calendar_condition(value, kind)), F.lit(False))
