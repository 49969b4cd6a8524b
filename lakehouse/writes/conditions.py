"""Conditions on many columns, and equality and ranges of values. Column in, Column out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import and_, or_
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, MapType, StructType

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
    """Return a condition for the values outside the years 1 to 9999, or None for a type without dates.

    Such a value is valid in Spark, but not in Python, nor for other readers of the table.
    """
    if kind not in _CALENDAR:
        return None
    first, last = map(F.expr, _CALENDAR[kind])
    return F.coalesce(~F.col(column).between(first, last), F.lit(False))
