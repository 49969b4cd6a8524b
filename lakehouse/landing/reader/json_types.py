"""Strict types of JSON values: msgspec decodes them, and Arrow arrays are built from what it decodes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import chain, islice
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as arrow
from msgspec import UNSET, Meta, Raw, UnsetType

_DATE = r"^\d{4}-\d{2}-\d{2}$"
_TIME = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?"
_ZONE = r"(Z|[+-]\d{2}:?\d{2})"
_YEAR_ZERO = "0000"
# A fraction's zeros below a microsecond.
_EMPTY_DIGITS = r"(\.\d{6})0+"
_NUMBER = r"^-?[0-9.eE+-]+$"
_EARLIEST, _LATEST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


class WrongValueError(ValueError):
    """A value is not of its declared type."""


@cache
def make_type(kind: Any, is_closed: bool = True) -> Any:
    """Return the type by which msgspec decodes the values of an Arrow type. Each of them may be null.

    Args:
        is_closed: an object with another key than those of the type is an error.
    """
    if arrow.is_struct(kind):
        return make_struct({field.name: field.type for field in kind}, is_closed) | None
    if arrow.is_map(kind):
        return dict[make_type(kind.key_type), make_type(kind.item_type, is_closed)] | None  # type: ignore[misc]
    if arrow.is_list(kind):
        return list[make_type(kind.value_type, is_closed)] | None  # type: ignore[misc]
    return Raw if arrow.is_decimal(kind) else _make_scalar_type(kind) | None


def _make_scalar_type(kind: Any) -> Any:
    if arrow.is_integer(kind):
        if kind.bit_width == 64:  # the limits of msgspec's own numbers are wider
            return Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
        limit = 1 << (kind.bit_width - 1)
        return Annotated[int, Meta(ge=-limit, le=limit - 1)]
    if arrow.is_boolean(kind):
        return bool
    return float if arrow.is_floating(kind) else str


@cache
def make_decoder(kind: pa.DataType) -> msgspec.json.Decoder[Any]:
    """Return the decoder of values of an Arrow type."""
    return msgspec.json.Decoder(make_type(kind))


@cache
def make_map_decoder(key_type: pa.DataType) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a map's keys. Its values stay as landed."""
    return msgspec.json.Decoder(dict[make_type(key_type), Raw])  # type: ignore[misc]


@cache
def make_closed_struct(kind: Any) -> type[msgspec.Struct]:
    """Return the type of an object with the keys of an Arrow struct and no others."""
    return make_struct({field.name: field.type for field in kind}, is_closed=True)


def make_struct(fields: Mapping[str, pa.DataType], is_closed: bool) -> type[msgspec.Struct]:
    """Return the type of an object with the given keys, each of which may be left out.

    Args:
        fields: the keys with the types of their values.
        is_closed: another key is an error, at any depth.
    """
    attributes = name_attributes(fields)
    definitions = [
        (attribute, make_type(kind, is_closed) | UnsetType, UNSET)
        for attribute, kind in zip(attributes, fields.values(), strict=True)
    ]
    rename = dict(zip(attributes, fields, strict=True))
    return msgspec.defstruct("Record", definitions, rename=rename, forbid_unknown_fields=is_closed, gc=False)


def name_attributes(fields: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return the attributes that stand for keys. A key may be a word of Python."""
    return [f"f{number}" for number in range(len(fields))]


class ArrayBuilder:
    """Builds Arrow arrays from decoded values, and counts the keys in them.

    Attributes:
        key_count: the number of keys of all objects and maps that were built.
    """

    def __init__(self) -> None:
        self.key_count = 0

    def build_struct(self, objects: list[Any], fields: Mapping[str, pa.DataType]) -> list[pa.Array]:
        """Build the columns of objects. A missing object or key is null.

        Raises:
            WrongValueError: a value is not of its type.
            pyarrow.ArrowInvalid: likewise.
        """
        columns = []
        present = [o for o in objects if o is not None] if None in objects else objects
        for attribute, kind in zip(name_attributes(fields), fields.values(), strict=True):
            values = list(map(attrgetter(attribute), present))
            unset_count = values.count(UNSET)
            self.key_count += len(present) - unset_count
            if unset_count:
                values = [None if value is UNSET else value for value in values]
            if len(present) < len(objects):
                iterator = iter(values)
                values = [None if o is None else next(iterator) for o in objects]
            columns.append(self.build(values, kind))
        return columns

    def build(self, values: list[Any], kind: Any) -> pa.Array:
        """Build an array. None is null."""
        if arrow.is_struct(kind):
            fields = {field.name: field.type for field in kind}
            mask = pa.array([value is None for value in values], pa.bool_())
            return pa.StructArray.from_arrays(self.build_struct(values, fields), fields=list(kind), mask=mask)
        if arrow.is_map(kind):
            self.key_count += sum(len(value) for value in values if value)
            keys = self.build(list(chain.from_iterable(value for value in values if value)), kind.key_type)
            if not arrow.is_string(kind.key_type):
                _check_keys(keys, [len(value) for value in values if value])
            items = self.build(list(chain.from_iterable(value.values() for value in values if value)), kind.item_type)
            return pa.MapArray.from_arrays(_build_offsets(values), keys, items, type=kind, mask=_mask(values))
        if arrow.is_list(kind):
            flat = self.build(list(chain.from_iterable(value for value in values if value)), kind.value_type)
            return pa.ListArray.from_arrays(_build_offsets(values), flat, type=kind, mask=_mask(values))
        return _build_scalars(values, kind)


def needs_check(kind: Any) -> bool:
    """Return whether msgspec alone does not decide if a value is of a type."""
    return not (arrow.is_integer(kind) or arrow.is_boolean(kind) or arrow.is_string(kind))


def _check_keys(keys: pa.Array, counts: list[int]) -> None:
    """Check that no map has two equal keys, such as two texts of one time.

    Args:
        keys: the keys of all maps.
        counts: the number of keys of each map.
    """
    iterator = iter(keys.to_pylist())
    if any(len(set(islice(iterator, count))) < count for count in counts):
        raise WrongValueError("a map has two equal keys")


def _mask(values: list[Any]) -> pa.Array:
    return pa.array([value is None for value in values], pa.bool_())


def _build_offsets(values: list[Any]) -> pa.Array:
    offsets, total = [0], 0
    for value in values:
        total += len(value) if value else 0
        offsets.append(total)
    return pa.array(offsets, pa.int32())


def _build_scalars(values: list[Any], kind: Any) -> pa.Array:
    if arrow.is_decimal(kind):
        return _build_decimals(values, kind)
    if arrow.is_date(kind):
        return _parse_times(pa.array(values, pa.string()), _DATE).cast(kind)
    if arrow.is_timestamp(kind):
        return _build_timestamps(pa.array(values, pa.string()), kind)
    if arrow.is_binary(kind):
        return pa.array([None if value is None else _parse_base64(value) for value in values], kind)
    array = pa.array(values, kind)
    if arrow.is_floating(kind) and not _is_all(pc.is_finite(array)):
        raise WrongValueError("a number is too large")
    return array


def _build_decimals(values: list[Any], kind: pa.DataType) -> pa.Array:
    raw = [None if value is None else bytes(value) for value in values]
    texts = pa.array([None if text == b"null" else text for text in raw], pa.binary()).cast(pa.string())
    if not _is_all(pc.match_substring_regex(texts, _NUMBER)):
        raise WrongValueError("a value is not a number")
    return texts.cast(kind)


def _build_timestamps(texts: pa.Array, kind: Any) -> pa.Array:
    _parse_times(texts, f"{_TIME}{_ZONE}?$" if kind.tz else f"{_TIME}$")
    texts = pc.replace_substring_regex(texts, _EMPTY_DIGITS, r"\1")
    has_zone = pc.match_substring_regex(texts, f"{_ZONE}$")
    instants = pc.if_else(has_zone, texts, pc.binary_join_element_wise(texts, "Z", ""))
    array = instants.cast(pa.timestamp("us", "UTC"))
    limits = pa.scalar(_EARLIEST, array.type), pa.scalar(_LATEST, array.type)
    if not _is_all(pc.and_(pc.greater_equal(array, limits[0]), pc.less_equal(array, limits[1]))):
        raise WrongValueError("a time is not between the years 1 and 9999")
    return array.cast(pa.int64()).cast(kind)


def _parse_times(texts: pa.Array, pattern: str) -> pa.Array:
    """Check the form of dates and times, and return them."""
    if not _is_all(pc.match_substring_regex(texts, pattern)) or _is_any(pc.starts_with(texts, _YEAR_ZERO)):
        raise WrongValueError("a value is not a date or time")
    return texts


def _parse_base64(text: str) -> bytes:
    value = base64.b64decode(text, validate=True)
    if base64.b64encode(value).decode() != text:
        raise WrongValueError("a value is not base64")
    return value


def _is_all(conditions: pa.Array) -> bool:
    return pc.all(conditions, min_count=0).as_py() is not False


def _is_any(conditions: pa.Array) -> bool:
    return pc.any(conditions, min_count=0).as_py() is True
