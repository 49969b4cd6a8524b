"""Column logic that any silver table needs: landed text to values, without losing what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse.definitions.tables import UNPARSED

# Spark's JSON leaves out what is less than a millisecond.
MICROSECOND_FORMATS = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX", "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}  # fmt: skip


def parse(name: str, type_name: str, missing: Sequence[str] = ("",)) -> Column:
    """The landed text in column ``name`` as a ``type_name``; null where it is missing or cannot be read as one.

    NaN and infinity are no numbers: one of them in a sum is all that is left of it.
    """
    landed = F.col(name)
    value = landed.try_cast(type_name)
    if type_name in ("double", "float"):  # Spark takes NaN for the largest of all
        value = F.when(F.abs(value) < float("inf"), value)
    return F.when(~landed.isin(*missing), value)


def unparsed(types: Mapping[str, str], missing: Sequence[str] = ("",)) -> Column:
    """The names of the columns whose landed text is neither missing nor readable as the given type."""
    lost = (
        F.when(parse(name, type_name, missing).isNull() & ~F.col(name).isin(*missing), F.lit(name))
        for name, type_name in types.items()
    )
    # Text first, because hardly any row has such a column and arrays are slow to build.
    names = F.concat_ws(",", *lost)
    return F.when(names != "", F.split(names, ",")).otherwise(F.array().cast("array<string>")).alias(UNPARSED)
