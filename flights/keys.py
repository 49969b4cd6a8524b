"""Shared values of the flights example's tables: markers, limits and unparsed columns."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse.definitions.tables import UNPARSED

# Airports of departure in the data.
ORIGINS = ("EWR", "JFK", "LGA")

# Markers of missing values in the files.
MISSING = ("", "NA")

# A flight is late when it arrives this much behind schedule (US Department of Transportation).
LATE_MINUTES = 15


def is_late(arr_delay_min: Column) -> Column:
    """Return true if a flight arrived late; null for cancelled and diverted flights, which did not arrive."""
    return arr_delay_min >= LATE_MINUTES


def add_unparsed(unparsed: Column, **lost: Column) -> Column:
    """Add the names of columns with a true condition: their values are parsed, but invalid in combination."""
    names = F.array(*[F.when(condition, F.lit(name)) for name, condition in lost.items()])
    # array_compact is slow, and hardly any row needs it.
    any_lost = reduce(Column.__or__, lost.values())
    return F.when(any_lost, F.array_compact(F.concat(unparsed, names))).otherwise(unparsed).alias(UNPARSED)


def is_lost(result: str, *parts: str) -> Column:
    """Return true if a column is null although all of its parts are present."""
    return reduce(Column.__and__, (F.col(part).isNotNull() for part in parts)) & F.col(result).isNull()
