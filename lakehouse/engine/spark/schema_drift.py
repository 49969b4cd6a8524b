"""Conformance of the rows of files with other columns than declared, by the source's contract. Frame in, frame out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from lakehouse.definitions.sources import MALFORMED, RESCUED, Source
from lakehouse.landing import schema_drift
from lakehouse.spark import MICROSECOND_FORMATS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# Key in `_rescued` for the declared columns that the row's file lacks.
MISSING = "_missing"
_NESTED = ("array", "map", "struct")
_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double", "decimal")


def conform_rows(
    source: Source, file_columns: Mapping[str, str], added: Mapping[str, str], rows: DataFrame
) -> DataFrame:
    """Turn the rows of files into rows of the bronze table.

    The result has the declared columns, the columns that the contract adds, and `_rescued` with all other values.
    A value is cast to another type only if the cast back gives the same value.

    Args:
        file_columns: Columns of the files with their types.
        added: Columns that the contract adds, with their types.
        rows: Rows of the files, with columns named by position.
    """
    target_types = {**source.columns, **added}
    columns = {
        name: F.col(make_positional_name(number))
        for number, (name, kind) in enumerate(file_columns.items())
        if kind != schema_drift.VOID
    }
    values: dict[str, Column] = {}
    rescued: dict[str, Column] = {}
    for name, kind in target_types.items():
        if name not in columns:
            values[name] = F.lit(None).cast(kind)
        elif schema_drift.can_read_as(file_columns[name], kind):
            values[name] = columns[name].cast(kind)
        else:
            values[name] = _cast_lossless(columns[name], file_columns[name], kind)
            rescued[name] = F.when(values[name].isNull(), _to_text(columns[name], file_columns[name]))
    undeclared = {name: column for name, column in columns.items() if name not in target_types}
    rescued |= {name: _to_text(column, file_columns[name]) for name, column in undeclared.items()}
    further: list[str | Column] = [MALFORMED] if MALFORMED in rows.columns else []
    further += ["_path", "_row"]
    if source.contract.has_rescued_column:
        further.append(_format_rescued(rescued, schema_drift.detect_drift(source, file_columns).missing_columns))
    return rows.select(*[value.alias(name) for name, value in values.items()], *further)


def make_positional_name(number: int) -> str:
    """Return the name of a file's column while its rows are read."""
    return f"_at_{number}"


def _format_rescued(rescued: Mapping[str, Column], missing: tuple[str, ...]) -> Column:
    """Return the rescued values as a JSON object, or null if there are none."""
    fields = [value.alias(name) for name, value in rescued.items()]
    if missing:
        fields.append(F.array(*map(F.lit, missing)).alias(MISSING))
    if not fields:
        return F.lit(None).cast("string").alias(RESCUED)
    return F.nullif(F.to_json(F.struct(*fields)), F.lit("{}")).alias(RESCUED)


def _cast_lossless(value: Column, file_type: str, kind: str) -> Column:
    """Cast a value where the cast back gives the same value. Return null elsewhere."""
    if file_type.startswith(_NESTED) or kind.startswith(_NESTED):
        return F.lit(None).cast(kind)
    if file_type.startswith(_NUMBERS) and kind.startswith(_NUMBERS):
        cast = value.try_cast(kind)
        return F.when(cast.try_cast(file_type) == value, cast)
    # Cast by way of text, because not every pair of types has a cast.
    cast = value.cast("string").try_cast(kind)
    return F.when(cast.cast("string").try_cast(file_type) == value, cast)


def _to_text(value: Column, kind: str) -> Column:
    if kind.startswith(_NESTED):
        return F.to_json(value, {"ignoreNullFields": "false", **MICROSECOND_FORMATS})
    return F.base64(value) if kind == "binary" else value.cast("string")
