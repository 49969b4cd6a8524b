"""Conversion of Arrow values to a declared type without loss. Values that would lose something are reported."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as arrow

# A piece with a lossy value is split into so many, until the value is alone.
_PIECES = 16
_NUMBERS: Sequence[Callable[[pa.DataType], bool]] = (arrow.is_integer, arrow.is_floating, arrow.is_decimal)
_BINARIES: Sequence[Callable[[pa.DataType], bool]] = (
    arrow.is_binary,
    arrow.is_large_binary,
    arrow.is_fixed_size_binary,
)
_MIDNIGHT = " 00:00:00"
_ZERO_FRACTION = re.compile(r"(\.\d*?)0+$")


def convert_lossless(values: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """Convert values to a type that holds them but for single values, such as times with nanoseconds.

    Returns:
        The values, null where one would be altered, and the positions of these.
    """
    try:
        return convert(values, kind), []
    except pa.ArrowInvalid:
        if len(values) == 1:
            return pa.nulls(1, kind), [0]
    step = -(-len(values) // _PIECES)
    parts, lossy = [], []
    for start in range(0, len(values), step):
        part, positions = convert_lossless(values.slice(start, step), kind)
        parts.append(part)
        lossy += [start + position for position in positions]
    return pa.concat_arrays(parts), lossy


def convert(values: Any, kind: Any) -> Any:
    """Convert values, nested ones as well. Fields of a struct are found by name.

    Raises:
        pyarrow.ArrowInvalid: a value would be altered.
    """
    if values.type == kind:
        return values
    if arrow.is_null(values.type):
        return pa.nulls(len(values), kind)
    if arrow.is_dictionary(values.type):
        return convert(values.dictionary_decode(), kind)
    if arrow.is_struct(kind) and arrow.is_struct(values.type):
        children = [convert(pc.struct_field(values, [field.name]), field.type) for field in kind]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=values.is_null())
    if arrow.is_map(kind) and arrow.is_map(values.type):
        return _convert_map(values, kind)
    if arrow.is_list(kind) and arrow.is_nested(values.type) and not arrow.is_struct(values.type):
        return _convert_list(values, kind)
    if arrow.is_timestamp(kind) and arrow.is_timestamp(values.type):
        microseconds = values.cast(pa.timestamp("us", values.type.tz))
        return microseconds.cast(pa.int64()).cast(kind)
    return values.cast(kind)


def _convert_list(values: Any, kind: Any) -> pa.Array:
    lists = values if arrow.is_list(values.type) else values.cast(pa.list_(values.type.value_type))
    flat = convert(pc.list_flatten(lists), kind.value_type)
    return pa.ListArray.from_arrays(_build_offsets(pc.list_value_length(lists)), flat, type=kind, mask=lists.is_null())


def _convert_map(values: Any, kind: Any) -> pa.Array:
    start, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
    keys = convert(values.keys.slice(start, end - start), kind.key_type)
    items = convert(values.items.slice(start, end - start), kind.item_type)
    offsets = pc.subtract(values.offsets, pa.scalar(start, pa.int32()))
    return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=values.is_null())


def _build_offsets(lengths: pa.Array) -> pa.Array:
    sums = pc.cumulative_sum(pc.fill_null(lengths, 0).cast(pa.int64()))
    return pa.concat_arrays([pa.array([0], pa.int64()), sums]).cast(pa.int32())


def cast_to_other_type(values: Any, kind: pa.DataType) -> pa.Array:
    """Cast each value where the cast back gives the same value; null elsewhere."""
    if _is_number(values.type) and _is_number(kind):
        results: Iterable[Any] = (_cast_number(value, kind) for value in values.to_pylist())
    elif arrow.is_nested(values.type) or arrow.is_nested(kind):
        return pa.nulls(len(values), kind)
    elif _is_binary(values.type) and arrow.is_string(kind):
        results = map(_decode, values.to_pylist())
    else:
        results = (_parse_text(text, kind, values.type) for text in to_texts(values).to_pylist())
    return pa.array(list(results), kind)


def _decode(value: bytes | None) -> str | None:
    """Return the text of binary content in UTF-8; None if it is no text."""
    try:
        return value.decode() if value is not None else None
    except UnicodeDecodeError:
        return None


def _is_binary(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _BINARIES)


def _is_number(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _NUMBERS)


def _cast_number(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    try:
        scalar = pa.scalar(_as_number(value, kind), kind)
    except (pa.ArrowInvalid, OverflowError, ValueError, ArithmeticError):
        return None
    is_nan = value != value  # noqa: PLR0124
    return scalar if is_nan or scalar.as_py() == value else None


def _as_number(value: Any, kind: Any) -> Any:
    if arrow.is_integer(kind):
        return int(value)
    if arrow.is_floating(kind):
        return float(value)
    number = Decimal(value)
    return number.quantize(Decimal(1).scaleb(-kind.scale)) if number.is_finite() else None


def _parse_text(text: str | None, kind: pa.DataType, file_type: pa.DataType) -> Any:
    """Parse a text as a type, where the result's own text is the same value of the file."""
    if text is None:
        return None
    is_midnight = arrow.is_timestamp(file_type) and arrow.is_date(kind) and text.endswith(_MIDNIGHT)
    try:
        value = _parse_canonical(text.removesuffix(_MIDNIGHT) if is_midnight else text, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    back = to_texts(value)[0].as_py()
    is_day = arrow.is_date(file_type) and arrow.is_timestamp(kind) and back == text + _MIDNIGHT
    return value[0] if back == text or is_midnight or is_day else None


def _parse_canonical(text: str, kind: Any) -> pa.Array:
    if arrow.is_timestamp(kind):
        return pa.array([text]).cast(pa.timestamp("us")).cast(pa.int64()).cast(kind)
    return pa.array([text.encode()], kind) if arrow.is_binary(kind) else pa.array([text]).cast(kind)


def to_texts(values: Any) -> pa.Array:
    """Return the text of each value: nested ones as JSON, binary as base64, times in UTC."""
    kind = values.type
    if arrow.is_dictionary(kind):
        return to_texts(values.dictionary_decode())
    if arrow.is_string(kind):
        return values
    if arrow.is_timestamp(kind):
        return _to_time_texts(values.cast(pa.int64()).cast(pa.timestamp(kind.unit)))
    if arrow.is_time(kind):
        return _to_time_texts(values)
    if arrow.is_duration(kind):
        return pc.binary_join_element_wise(values.cast(pa.string()), kind.unit, " ")
    if arrow.is_nested(kind):
        return pa.array([_to_json(value) for value in values], pa.string())
    if _is_binary(kind):
        return pa.array([value and base64.b64encode(value).decode() for value in values.to_pylist()], pa.string())
    if arrow.is_floating(kind) or arrow.is_decimal(kind):
        return pa.array([None if value is None else _format(value) for value in values.to_pylist()], pa.string())
    return values.cast(pa.string())


def _to_time_texts(values: Any) -> pa.Array:
    """Return the texts of times without the zeros at the end of a fraction."""
    texts = values.cast(pa.string()).to_pylist()
    return pa.array([text and _ZERO_FRACTION.sub(r"\1", text).rstrip(".") for text in texts], pa.string())


def _format(value: Any) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def _to_json(value: Any) -> str | None:
    return json.dumps(_to_plain(value), ensure_ascii=False, separators=(",", ":")) if value.is_valid else None


def _to_plain(value: Any) -> Any:
    """Return a scalar as JSON's types. Numbers of any size stay exact, as they are written as they are."""
    kind = value.type
    if not value.is_valid:
        return None
    if arrow.is_struct(kind):
        return {field.name: _to_plain(value[field.name]) for field in kind}
    if arrow.is_map(kind):
        pairs = [(str(_to_plain(entry["key"])), _to_plain(entry["value"])) for entry in value.values]
        entries = dict(pairs)
        return entries if len(entries) == len(pairs) else pairs
    if arrow.is_nested(kind):
        return [_to_plain(item) for item in value.values]
    if arrow.is_timestamp(kind):
        text: str = to_texts(pa.array([value], kind))[0].as_py()
        return text.replace(" ", "T") + "Z"  # a time without a zone counts as UTC
    if arrow.is_time(kind) or arrow.is_duration(kind):
        return to_texts(pa.array([value], kind))[0].as_py()
    try:
        plain = value.as_py()
    except (OverflowError, ValueError):  # a date that Python does not have
        return to_texts(pa.array([value], kind))[0].as_py()
    if isinstance(plain, bool | int | str) or (isinstance(plain, float) and plain - plain == 0):
        return plain
    return to_texts(pa.array([value], kind))[0].as_py() if not isinstance(plain, datetime | date) else plain.isoformat()
