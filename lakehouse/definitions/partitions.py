"""Partitions by date: their days, and the predicates that select them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, timedelta

from lakehouse.definitions.write_modes import Replace


def build_in_predicate(column: str, values: Collection[str]) -> str:
    """Build a SQL predicate: the column has one of the values."""
    quoted = ", ".join("'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in sorted(values))
    return f"`{column}` IN ({quoted})"


def truncate_to_partition(day: date, write: Replace) -> date:
    """Return the first day of the partition that the day is in."""
    return day.replace(day=1) if write.unit == "month" else day


def find_affected_partitions(days: set[date | None], affects_days: int, write: Replace) -> set[date]:
    """Return the partitions that rows changed on these days affect."""
    affected = {day + timedelta(days=n) for day in days if day is not None for n in range(affects_days + 1)}
    return {truncate_to_partition(day, write) for day in affected}


def merge_into_ranges(partitions: Sequence[date], write: Replace) -> list[tuple[date, date]]:
    """Merge neighbouring partitions into ranges, each with its first and last day."""
    ranges: list[tuple[date, date]] = []
    for start in sorted(partitions):
        end = _get_last_day(start, write)
        if ranges and (start - ranges[-1][1]).days == 1:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges


def build_range_predicate(column: str, ranges: Sequence[tuple[date, date]], lookback_days: int = 0) -> str:
    """Build a SQL predicate: the date column is in one of the ranges, each extended by the look-back days before it."""
    parts = [
        f"`{column}` BETWEEN DATE'{first - timedelta(days=lookback_days)}' AND DATE'{last}'" for first, last in ranges
    ]
    return "(" + " OR ".join(parts) + ")"


def _get_last_day(start: date, write: Replace) -> date:
    if write.unit == "day":
        return start
    following = (start.replace(day=28) + timedelta(days=4)).replace(day=1)
    return following - timedelta(days=1)
