"""Column logic that any silver table needs: landed text to values, without losing what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

# A function that types landed text may return this column (array of strings): the landed columns of the row that hold
# something, but nothing of the wanted type. The platform sets such rows aside and never writes the column.
UNREADABLE = "_unreadable"


def typed(name: str, type_name: str, missing: Sequence[str] = ("",)) -> Column:
    """The landed text in column ``name`` as a ``type_name``; null where it is missing or cannot be read as one."""
    landed = F.col(name)
    return F.when(~landed.isin(*missing), landed.try_cast(type_name))


def unreadable(types: Mapping[str, str], missing: Sequence[str] = ("",)) -> Column:
    """The names of the columns whose landed text is neither missing nor readable as the given type."""
    return F.array_compact(
        F.array(
            *[
                F.when(~F.col(name).isin(*missing) & F.col(name).try_cast(type_name).isNull(), F.lit(name))
                for name, type_name in types.items()
            ]
        )
    ).alias(UNREADABLE)
