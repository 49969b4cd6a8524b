"""Partitions by date: their days, and the predicates that select them."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Sequence
from datetime import date, timedelta

from lakehouse.definitions.write_modes import Replace


def truncate_to_partition(day: date, write: Replace) -> date:
    """Return the first day of the partition that the day is in."""
    return day.replace(day=1) if write.unit == "month" else day


def find_affected_partitions(days: set[date | None], affects_days: int, write: Replace) -> set[date]:
    """Return the partitions that rows changed on these days affect, up to the last day that there is, 9999-12-31."""
    affected = {
        day + timedelta(days=n)
        for day in days
        if day is not None
        for n in range(min(affects_days, (date.max - day).days) + 1)
    }
    return {truncate_to_partition(day, write) for day in affected}


def merge_into_ranges(partitions: Sequence[date], write: Replace) -> list[tuple[date, date]]:
    """Merge neighbouring partitions into ranges, each with its first and last day."""
    ranges: list[tuple[date, date]] = []
    for start in sorted(partitions):
        end = get_last_day(start, write)
        if ranges and (start - ranges[-1][1]).days == 1:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges


def build_range_predicate(column: str, ranges: Sequence[tuple[date, date]], lookback_days: int = 0) -> str:
    """Build a SQL predicate: the date column is in one of the ranges, each extended by the look-back days before it."""
    parts = [
        f"`{column}` BETWEEN DATE'{subtract_days(first, lookback_days)}' AND DATE'{last}'" for first, last in ranges
    ]
    return "(" + " OR ".join(parts) + ")"


def subtract_days(day: date, days: int) -> date:
    """Return the day that many days before, or the first day that there is, 0001-01-01."""
    return day - timedelta(days=min(days, (day - date.min).days))


def get_last_day(start: date, write: Replace) -> date:
    """Return the last day of the partition that starts on a day."""
    return start.replace(day=monthrange(start.year, start.month)[1]) if write.unit == "month" else start
