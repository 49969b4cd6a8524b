"""Partitions by date: which days they cover, and the predicates that select them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, timedelta

from lakehouse.definitions.write_modes import Replace


def one_of(column: str, values: Collection[str]) -> str:
    """A SQL predicate: the column has one of the values."""
    quoted = ", ".join("'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in sorted(values))
    return f"`{column}` IN ({quoted})"


def partition_of(day: date, write: Replace) -> date:
    return day.replace(day=1) if write.unit == "month" else day


def touched(days: set[date | None], reach_days: int, write: Replace) -> set[date]:
    """The partitions that rows changed on these days influence."""
    reached = {day + timedelta(days=n) for day in days if day is not None for n in range(reach_days + 1)}
    return {partition_of(day, write) for day in reached}


def spans(partitions: Sequence[date], write: Replace) -> list[tuple[date, date]]:
    """Runs of neighbouring partitions, each as its first and last day."""
    found: list[tuple[date, date]] = []
    for start in sorted(partitions):
        end = _last_day(start, write)
        if found and (start - found[-1][1]).days == 1:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def within(column: str, days: Sequence[tuple[date, date]], before: int = 0) -> str:
    """A SQL predicate: the date column lies in one of the spans, each begun ``before`` days earlier."""
    parts = [f"`{column}` BETWEEN DATE'{first - timedelta(days=before)}' AND DATE'{last}'" for first, last in days]
    return "(" + " OR ".join(parts) + ")"


def _last_day(start: date, write: Replace) -> date:
    if write.unit == "day":
        return start
    following = (start.replace(day=28) + timedelta(days=4)).replace(day=1)
    return following - timedelta(days=1)
