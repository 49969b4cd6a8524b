"""Column logic of silver tables: parse landed text, and record the values that do not parse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse.definitions.tables import UNPARSED
from lakehouse.definitions.text_formats import FLOATS, INTEGERS, MOMENTS, Layout, TextFormat, to_format

# By default, Spark's JSON drops the microseconds.
MICROSECOND_FORMATS = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
# The years that every reader can hold. Within the inner bounds no zone leads out of them.
_FIRST, _LAST = "0001-01-01", "9999-12-31 23:59:59.999999"
_INNER = ("0001-01-02", "9999-12-31")


def parse(name: str, type_name: str | TextFormat, missing: Sequence[str] = ("",)) -> Column:
    """Parse the landed text of a column, by the exact grammar of its type.

    NaN and infinity are not accepted, because a single one determines every sum.

    Args:
        name: The column.
        type_name: The Spark SQL type to parse as, or a `TextFormat`.
        missing: Texts that stand for a missing value.

    Returns:
        The value; null where it is missing or does not parse.
    """
    landed = F.col(name)
    return F.when(~landed.isin(*missing), _parse_text(landed, to_format(type_name)))


def unparsed(types: Mapping[str, str | TextFormat], missing: Sequence[str] = ("",)) -> Column:
    """Return the names of the columns with landed text that is neither missing nor parses as the given type."""
    failed = (
        F.when(parse(name, type_name, missing).isNull() & ~F.col(name).isin(*missing), F.lit(name))
        for name, type_name in types.items()
    )
    # Text comes first: few rows have such a column, and arrays are slow to build.
    names = F.concat_ws(",", *failed)
    return F.when(names != "", F.split(names, ",")).otherwise(F.array().cast("array<string>")).alias(UNPARSED)


def _parse_text(text: Column, form: TextFormat) -> Column:
    if form.type_name in MOMENTS:
        return _parse_pattern(text, form) if form.pattern else _parse_iso(text, form)
    if form.type_name in INTEGERS or form.scale is not None:
        return _parse_exact(text, form)
    if form.type_name in FLOATS:
        return _parse_float(text, form)
    if form.type_name == "boolean":
        return F.when(text.isin(*form.true), F.lit(True)).when(text.isin(*form.false), F.lit(False))
    return text.cast(form.type_name)


def _parse_exact(text: Column, form: TextFormat) -> Column:
    """Parse an integer or a decimal. Text that a value is written as needs no regular expression."""
    is_valid = text.rlike(form.regex)
    if form.decimal == ".":
        is_valid = (text.try_cast(form.type_name).cast("string") == text) | is_valid
    return F.when(is_valid, _to_plain_number(text, form).try_cast(form.type_name))


def _parse_float(text: Column, form: TextFormat) -> Column:
    value = F.when(text.rlike(form.regex), _to_plain_number(text, form)).try_cast(form.type_name)
    return F.when(F.abs(value) < float("inf"), value)  # For Spark, NaN is greater than any number.


def _to_plain_number(text: Column, form: TextFormat) -> Column:
    """Return a number's text without separators of thousands, and with a decimal point."""
    if not form.thousands and form.decimal == ".":
        return text
    decimal, point = ("", "") if form.type_name in INTEGERS else (form.decimal, ".")
    return F.translate(text, decimal + form.thousands, point)


def _parse_iso(text: Column, form: TextFormat) -> Column:
    # The regular expression is the cheap test: writing a date or a time as text again costs more.
    return _cast_moment(text.rlike(form.regex), text, form)


def _parse_pattern(text: Column, form: TextFormat) -> Column:
    first, *others = ((text.rlike(layout.regex), _to_iso(text, layout, form)) for layout in form.layouts)
    iso = F.when(*first)
    for is_match, value in others:
        iso = iso.when(is_match, value)
    return _cast_moment(F.lit(True), iso, form)


def _to_iso(text: Column, layout: Layout, form: TextFormat) -> Column:
    """Bring the fields of a text into the order of ISO 8601. Parts of a time that the pattern lacks are zero."""

    def cut(field: str, length: int = 2) -> Column:
        return F.substring(text, layout.positions[field], length) if field in layout.positions else F.lit("00")

    parts = [cut("yyyy", 4), F.lit("-"), cut("MM"), F.lit("-"), cut("dd")]
    if form.type_name != "date":
        parts += [F.lit(" "), cut("HH"), F.lit(":"), cut("mm"), F.lit(":"), cut("ss")]
    longest = 6 + len("+00:00")
    if "S" in layout.positions:
        parts += [F.lit("."), cut("S", longest)]
    elif "XXX" in layout.positions:
        parts += [cut("XXX", longest)]
    return F.concat(*parts)


def _cast_moment(is_valid: Column, iso: Column, form: TextFormat) -> Column:
    """Cast a date or a time from year 1 to 9999, the years that every reader can hold."""
    value = iso.try_cast(form.type_name)
    if form.type_name != "timestamp":
        return F.when(is_valid & (iso >= _FIRST), value)
    first, last = (F.lit(bound).cast("timestamp") for bound in (_FIRST, _LAST))
    # Comparing text spares most values a second cast.
    return F.when(is_valid & iso.between(*_INNER), value).when(is_valid & value.between(first, last), value)
