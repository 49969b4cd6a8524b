"""Examination of one JSON record, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.types as arrow
from msgspec import UNSET, Raw

from lakehouse.landing.reader.json_layout import find_duplicate_key
from lakehouse.landing.reader.json_types import (
    ArrayBuilder,
    WrongValueError,
    make_closed_struct,
    make_decoder,
    make_map_decoder,
    name_attributes,
    needs_check,
)


class MapKey(str):
    """A key of a map, as a part of a path. It is a value of the record, not a name of a column."""

    __slots__ = ()


Path = tuple[str | int, ...]
_OBJECTS = msgspec.json.Decoder(dict[str, Raw])
_LISTS = msgspec.json.Decoder(list[Raw])


def find_unknown_keys(values: Mapping[str, Raw], fields: Mapping[str, pa.DataType], path: Path = ()) -> dict[Path, Raw]:
    """Return the undeclared keys of a good object, at any depth, with their values by path."""
    unknown: dict[Path, Raw] = {}
    for key, raw in values.items():
        if key not in fields:
            unknown[*path, key] = raw
        elif has_struct(fields[key]):
            unknown |= _find_within(raw, fields[key], (*path, key))
    return unknown


def _find_within(raw: Raw, kind: Any, path: Path) -> dict[Path, Raw]:
    if bytes(raw) == b"null" or not has_struct(kind):
        return {}
    if arrow.is_struct(kind):
        return find_unknown_keys(_OBJECTS.decode(raw), _get_fields(kind), path)
    unknown: dict[Path, Raw] = {}
    if arrow.is_map(kind):
        for key, item in _OBJECTS.decode(raw).items():
            unknown |= _find_within(item, kind.item_type, (*path, MapKey(key)))
    else:
        for at, item in enumerate(_LISTS.decode(raw)):
            unknown |= _find_within(item, kind.value_type, (*path, at))
    return unknown


@cache
def _get_fields(kind: Any) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in kind}


@cache
def has_struct(kind: Any) -> bool:
    """Return whether a type is or has a struct."""
    if arrow.is_map(kind):
        return has_struct(kind.item_type)
    return arrow.is_struct(kind) or (arrow.is_list(kind) and has_struct(kind.value_type))


@cache
def has_typed_keys(kind: Any) -> bool:
    """Return whether a type is or has a map whose keys are no texts."""
    if arrow.is_map(kind) and not arrow.is_string(kind.key_type):
        return True
    return any(has_typed_keys(kind.field(index).type) for index in range(kind.num_fields))


class Examination:
    """Examines records that are not plainly good.

    Args:
        fields: the declared columns with their types.
        record: the type of a record.
    """

    def __init__(self, fields: Mapping[str, pa.DataType], record: type[msgspec.Struct]) -> None:
        self.fields, self.record = fields, record

    def examine(self, text: bytes) -> tuple[Any, dict[Path, Raw]]:
        """Return the record, and the values of its undeclared keys by path.

        The record is None if a value is not of its type, a key is there twice, or the text is not a JSON object.
        """
        try:
            msgspec.json.decode(text)
            values = _OBJECTS.decode(text)
            duplicate = find_duplicate_key(text)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None, {}
        walk = _Walk()
        record = walk.convert_object(values, self.fields, self.record, ())
        return (None if walk.is_wrong or duplicate is not None else record), walk.unknown


class _Walk:
    """Walks over the values of one record.

    Attributes:
        is_wrong: a value is not of its type.
        unknown: the values of undeclared keys by path.
    """

    def __init__(self) -> None:
        self.is_wrong = False
        self.unknown: dict[Path, Raw] = {}

    def convert_object(
        self, values: Mapping[str, Raw], fields: Mapping[str, pa.DataType], record: type[msgspec.Struct], path: Path
    ) -> Any:
        """Return an object with the declared keys."""
        self.unknown |= {(*path, key): raw for key, raw in values.items() if key not in fields}
        attributes = zip(name_attributes(fields), fields.items(), strict=True)
        converted = {
            attribute: self.convert(values[key], kind, (*path, key)) if key in values else UNSET
            for attribute, (key, kind) in attributes
        }
        return record(**converted)

    def _check_keys(self, raw: Raw, entries: Mapping[Any, Raw], kind: pa.DataType) -> None:
        """Check that the keys of a map are of their type, and none equals another, such as 0 and -0."""
        ArrayBuilder().build([dict.fromkeys(entries)], pa.map_(kind, pa.null()))
        if len(entries) < len(_OBJECTS.decode(raw)):
            raise WrongValueError("a map has two equal keys")

    def convert(self, raw: Raw, kind: Any, path: Path) -> Any:
        """Return a value of a type, as msgspec decodes it. A wrong one is noted."""
        if bytes(raw) == b"null":
            return None
        try:
            if arrow.is_struct(kind):
                return self.convert_object(_OBJECTS.decode(raw), _get_fields(kind), make_closed_struct(kind), path)
            if arrow.is_map(kind):
                entries = make_map_decoder(kind.key_type).decode(raw)
                self._check_keys(raw, entries, kind.key_type)
                return {key: self.convert(item, kind.item_type, (*path, MapKey(key))) for key, item in entries.items()}
            if arrow.is_list(kind):
                return [self.convert(item, kind.value_type, (*path, at)) for at, item in enumerate(_LISTS.decode(raw))]
            value = make_decoder(kind).decode(raw)
            if needs_check(kind):
                ArrayBuilder().build([value], kind)
            return value
        except (msgspec.MsgspecError, ValueError, OverflowError):
            self.is_wrong = True
            return None
