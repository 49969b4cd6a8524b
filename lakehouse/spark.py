"""Column logic of silver tables: parse landed text, and record the values that do not parse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse.definitions.tables import UNPARSED

# By default, Spark's JSON drops the microseconds.
MICROSECOND_FORMATS = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}


def parse(name: str, type_name: str, missing: Sequence[str] = ("",)) -> Column:
    """Parse the landed text of a column.

    NaN and infinity are not accepted, because a single one determines every sum.

    Args:
        name: The column.
        type_name: The Spark SQL type to parse as.
        missing: Texts that stand for a missing value.

    Returns:
        The value; null where it is missing or does not parse.
    """
    landed = F.col(name)
    value = landed.try_cast(type_name)
    if type_name in ("double", "float"):  # For Spark, NaN is greater than any number.
        value = F.when(F.abs(value) < float("inf"), value)
    return F.when(~landed.isin(*missing), value)


def unparsed(types: Mapping[str, str], missing: Sequence[str] = ("",)) -> Column:
    """Return the names of the columns with landed text that is neither missing nor parses as the given type."""
    failed = (
        F.when(parse(name, type_name, missing).isNull() & ~F.col(name).isin(*missing), F.lit(name))
        for name, type_name in types.items()
    )
    # Text comes first: few rows have such a column, and arrays are slow to build.
    names = F.concat_ws(",", *failed)
    return F.when(names != "", F.split(names, ",")).otherwise(F.array().cast("array<string>")).alias(UNPARSED)
