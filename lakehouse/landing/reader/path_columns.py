"""Values in the names of folders, as in `year=2024/month=01/`, the layout of Hive's partitions."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import pyarrow as pa

from lakehouse.definitions.sources import Source
from lakehouse.landing.reader.column_types import to_arrow_type
from lakehouse.landing.reader.rejection import RejectedFileError

# Hive's name of a folder with null.
_NULL = "__HIVE_DEFAULT_PARTITION__"


def read_path_columns(source: Source, path: str) -> dict[str, pa.Scalar]:
    """Return the values of the columns that come from the path of a file.

    Args:
        path: the path below the landing zone. Characters are escaped as in a URL.

    Raises:
        RejectedFileError: the path lacks a column, has it twice, or its value is not of the declared type.
    """
    if not source.path_columns:
        return {}
    folders = [folder.partition("=") for folder in path.split("/")[:-1]]
    values_by_name: dict[str, list[str]] = {}
    for name, _, value in folders:
        values_by_name.setdefault(unquote(name), []).append(unquote(value))
    return {name: _parse(name, source.columns[name], values_by_name) for name in source.path_columns}


def _parse(name: str, kind: str, values_by_name: Mapping[str, list[str]]) -> pa.Scalar:
    values = values_by_name.get(name, [])
    if len(values) != 1:
        raise RejectedFileError(f"has {name} twice in its path" if values else f"has no folder {name}=... in its path")
    text = None if values[0] == _NULL else values[0]
    try:
        return pa.scalar(text, pa.string()).cast(to_arrow_type(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise RejectedFileError(f"has {name}={text} in its path, which is no {kind}") from None
