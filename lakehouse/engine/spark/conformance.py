"""What a contract makes of the rows of a file whose columns are not those declared. Frame in, frame out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.definitions.sources import MALFORMED, RESCUED, Source
from lakehouse.landing import conformance
from lakehouse.spark import MICROSECOND_FORMATS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# In `_rescued`: the declared columns that the row's file misses.
MISSING = "_missing"
_NESTED = ("array", "map", "struct")
_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double", "decimal")


def conform_rows(source: Source, found: Mapping[str, str], added: Mapping[str, str], rows: DataFrame) -> DataFrame:
    """The rows of files with these columns, which ``rows`` has by position, as the bronze table has them: those declared, those that
    the contract adds, and `_rescued` with what none of them holds.

    A value is taken as another type only where that type gives the same value back.
    """
    wanted = {**source.columns, **added}
    places = {
        name: F.col(positional_name(number))
        for number, (name, kind) in enumerate(found.items())
        if kind != conformance.VOID
    }
    values: dict[str, Column] = {}
    kept: dict[str, Column] = {}
    for name, kind in wanted.items():
        if name not in places:
            values[name] = F.lit(None).cast(kind)
        elif conformance.can_read_as(found[name], kind):
            values[name] = places[name].cast(kind)
        else:
            values[name] = _cast_lossless(places[name], found[name], kind)
            kept[name] = F.when(values[name].isNull(), _to_text(places[name], found[name]))
    kept |= {name: _to_text(place, found[name]) for name, place in places.items() if name not in wanted}
    whole = [MALFORMED] if MALFORMED in rows.columns else []
    rescued = (
        [_rescued_json(kept, conformance.detect_drift(source, found).missing_columns)]
        if source.contract.has_rescued_column
        else []
    )
    return rows.select(*[value.alias(name) for name, value in values.items()], *whole, "_path", "_row", *rescued)


def positional_name(number: int) -> str:
    """The name of a file's column while its rows are read."""
    return f"_at_{number}"


def _rescued_json(kept: Mapping[str, Column], missing: tuple[str, ...]) -> Column:
    """The values kept aside as a JSON object; null where there are none."""
    fields = [value.alias(name) for name, value in kept.items()]
    if missing:
        fields.append(F.array(*map(F.lit, missing)).alias(MISSING))
    if not fields:
        return F.lit(None).cast("string").alias(RESCUED)
    return F.nullif(F.to_json(F.struct(*fields)), F.lit("{}")).alias(RESCUED)


def _cast_lossless(value: Column, found: str, kind: str) -> Column:
    """The value as another type where that gives the same value back, null elsewhere."""
    if found.startswith(_NESTED) or kind.startswith(_NESTED):
        return F.lit(None).cast(kind)
    if found.startswith(_NUMBERS) and kind.startswith(_NUMBERS):
        cast = value.try_cast(kind)
        return F.when(cast.try_cast(found) == value, cast)
    # By way of text, as not every pair of types has a cast.
    cast = value.cast("string").try_cast(kind)
    return F.when(cast.cast("string").try_cast(found) == value, cast)


def _to_text(value: Column, kind: str) -> Column:
    if kind.startswith(_NESTED):
        return F.to_json(value, {"ignoreNullFields": "false", **MICROSECOND_FORMATS})
    return F.base64(value) if kind == "binary" else value.cast("string")
