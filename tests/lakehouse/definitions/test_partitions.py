"""Partitions at the first and the last day that there is."""

from __future__ import annotations

from datetime import date

from lakehouse.definitions.partitions import build_range_predicate, find_affected_partitions, merge_into_ranges
from lakehouse.definitions.write_modes import Replace

FIRST, LAST = date(1, 1, 1), date(9999, 12, 31)
DAYS, MONTHS = Replace("day"), Replace("day", "month")


def test_affected_partitions_end_at_the_last_day() -> None:
    days = {FIRST, date(2024, 1, 30), LAST, None}
    assert sorted(find_affected_partitions(days, 2, DAYS)) == [
        FIRST,
        date(1, 1, 2),
        date(1, 1, 3),
        date(2024, 1, 30),
        date(2024, 1, 31),
        date(2024, 2, 1),
        LAST,
    ]
    months = [FIRST, date(2024, 1, 1), date(2024, 2, 1), date(9999, 12, 1)]
    assert sorted(find_affected_partitions(days, 2, MONTHS)) == months


def test_ranges_of_months_end_at_the_last_day() -> None:
    months = [date(9999, 12, 1), FIRST, date(2024, 2, 1), date(2024, 1, 1), date(9999, 11, 1)]
    assert merge_into_ranges(months, MONTHS) == [
        (FIRST, date(1, 1, 31)),
        (date(2024, 1, 1), date(2024, 2, 29)),
        (date(9999, 11, 1), LAST),
    ]


def test_no_lookback_goes_before_the_first_day() -> None:
    ranges = [(date(1, 1, 2), date(1, 1, 3)), (date(2024, 1, 1), LAST)]
    assert build_range_predicate("day", ranges, lookback_days=3) == (
        "(`day` BETWEEN DATE'0001-01-01' AND DATE'0001-01-03' OR `day` BETWEEN DATE'2023-12-29' AND DATE'9999-12-31')"
    )
