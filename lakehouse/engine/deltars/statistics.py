"""Statistics of a Parquet file as Delta's log stores them, for readers that skip files."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, date, datetime
from typing import Any

import pyarrow.parquet as pq

# Delta's own writers shorten longer texts.
_MAX_TEXT_LENGTH = 32


def describe_statistics(footer: pq.FileMetaData, columns: Collection[str]) -> str:
    """Return the statistics of a file as JSON: its rows, and the minimum, maximum and nulls of columns.

    A column without an exact minimum and maximum is left out, such as one of numbers with NaN or of long texts.

    Args:
        columns: top-level columns.

    Source: Delta protocol, "Per-file Statistics".
    """
    least, greatest, nulls = dict[str, Any](), dict[str, Any](), dict[str, int]()
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        if name not in columns:
            continue
        groups = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
        if not groups or any(group is None or not group.has_null_count for group in groups):
            continue
        nulls[name] = sum(group.null_count for group in groups)
        if limits := _find_limits(groups):
            least[name], greatest[name] = limits
    statistics = {"numRecords": footer.num_rows, "minValues": least, "maxValues": greatest, "nullCount": nulls}
    return json.dumps(statistics)


def _find_limits(groups: Collection[Any]) -> tuple[Any, Any] | None:
    """Return the minimum and the maximum as JSON's types; None where there are no exact ones."""
    try:
        limits = [(group.min, group.max) for group in groups if group.has_min_max]
    except (OverflowError, ValueError):  # a date that Python does not have
        return None
    if not limits:
        return None
    values = min(low for low, _ in limits), max(high for _, high in limits)
    return None if any(not _is_exact(value) for value in values) else (_to_json(values[0]), _to_json(values[1]))


def _is_exact(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT_LENGTH
    return isinstance(value, int | date) and not isinstance(value, bool)


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        text = value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
        return text + ("Z" if value.tzinfo else "")
    return value.isoformat() if isinstance(value, date) else value
