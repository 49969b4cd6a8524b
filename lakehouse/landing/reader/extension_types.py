"""Arrow's extension types, such as UUID and JSON. Their values are read by the storage type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.types as arrow


def unwrap(values: Any) -> Any:
    """Return values without extension types, at any depth."""
    return values.cast(_to_plain_type(values.type)) if has_type(values.type, _is_extension) else values


def get_storage_type(kind: Any) -> Any:
    """Return the type of an extension's values. Other types and extensions of structs are returned as they are."""
    if _is_extension(kind) and not arrow.is_struct(kind.storage_type):
        return get_storage_type(kind.storage_type)
    return kind


def has_type(kind: Any, is_type: Callable[[Any], bool]) -> bool:
    """Return whether a type, or a type within it, meets a condition."""
    if is_type(kind):
        return True
    if _is_extension(kind):
        return has_type(kind.storage_type, is_type)
    return any(has_type(kind.field(index).type, is_type) for index in range(kind.num_fields))


def _is_extension(kind: Any) -> bool:
    return isinstance(kind, pa.BaseExtensionType)


def _to_plain_type(kind: Any) -> Any:
    if _is_extension(kind):
        return _to_plain_type(kind.storage_type)
    if not has_type(kind, _is_extension):
        return kind
    if arrow.is_struct(kind):
        return pa.struct([field.with_type(_to_plain_type(field.type)) for field in kind])
    if arrow.is_map(kind):
        return pa.map_(_to_plain_type(kind.key_type), _to_plain_type(kind.item_type))
    return pa.list_(_to_plain_type(kind.value_type))
