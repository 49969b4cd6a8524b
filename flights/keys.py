"""What the flights example's tables agree on: keys, units and markers."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse.definitions.tables import UNPARSED

# The airports that the data's flights leave from.
ORIGINS = ("EWR", "JFK", "LGA")

# How the files say that a value is missing.
MISSING = ("", "NA")

# A flight is late when it arrives this much behind schedule (US Department of Transportation).
LATE_MINUTES = 15


def is_late(arr_delay_min: Column) -> Column:
    """Whether a flight arrived late; null where it did not arrive: cancelled or diverted."""
    return arr_delay_min >= LATE_MINUTES


def add_unparsed(unparsed: Column, **lost: Column) -> Column:
    """The names of unreadable columns, and of those whose condition holds: readable alone, but no such thing."""
    names = F.array(*[F.when(condition, F.lit(name)) for name, condition in lost.items()])
    # Compacting is slow, and hardly any row needs it.
    any_lost = reduce(Column.__or__, lost.values())
    return F.when(any_lost, F.array_compact(F.concat(unparsed, names))).otherwise(unparsed).alias(UNPARSED)


def is_lost(result: str, *parts: str) -> Column:
    """Whether a column is null although all those it is made of are known."""
    return reduce(Column.__and__, (F.col(part).isNotNull() for part in parts)) & F.col(result).isNull()
