"""Statistics of the columns of a Parquet file, for readers that skip files."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow.parquet as pq

# Delta's own writers shorten longer texts.
_MAX_TEXT_LENGTH = 32


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of a column in one file.

    Attributes:
        null_count: the number of its nulls.
        limits: its minimum and maximum as values of JSON; none if there are no exact ones, as with NaN or long texts.
    """

    null_count: int
    limits: tuple[Any, ...] = ()


def collect_statistics(footer: pq.FileMetaData) -> dict[str, ColumnStatistics]:
    """Return the statistics of top-level columns by the footer of a file. Nested columns have none."""
    statistics = dict[str, ColumnStatistics]()
    for index in range(footer.num_columns):
        name = footer.schema.column(index).path
        groups = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
        if groups and not any(group is None or not group.has_null_count for group in groups):
            statistics[name] = ColumnStatistics(sum(group.null_count for group in groups), _find_limits(groups))
    return statistics


def describe_statistics(row_count: int, statistics: Mapping[str, ColumnStatistics], columns: Collection[str]) -> str:
    """Return the statistics of some columns as JSON, as Delta's log stores them.

    Source: Delta protocol, "Per-file Statistics".
    """
    stored = {name: column for name, column in statistics.items() if name in columns}
    return json.dumps(
        {
            "numRecords": row_count,
            "minValues": {name: column.limits[0] for name, column in stored.items() if column.limits},
            "maxValues": {name: column.limits[1] for name, column in stored.items() if column.limits},
            "nullCount": {name: column.null_count for name, column in stored.items()},
        }
    )


def _find_limits(groups: Collection[Any]) -> tuple[Any, ...]:
    """Return the minimum and the maximum as JSON's types; nothing where there are no exact ones."""
    try:
        limits = [(group.min, group.max) for group in groups if group.has_min_max]
    except (OverflowError, ValueError):  # a date that Python does not have
        return ()
    if not limits:
        return ()
    values = min(low for low, _ in limits), max(high for _, high in limits)
    return tuple(map(_to_json, values)) if all(map(_is_exact, values)) else ()


def _is_exact(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT_LENGTH
    return isinstance(value, int | date) and not isinstance(value, bool)


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:  # astimezone would take it for local time.
            return value.isoformat(timespec="microseconds")
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return value.isoformat() if isinstance(value, date) else value
