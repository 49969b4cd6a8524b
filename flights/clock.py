"""Local dates and clocks to UTC and back. Column in, Column out; the session's time zone is UTC.

A clock is a whole number, 517 for 5:17 and 2400 for the midnight that ends the day. A wall time is what a local clock
and calendar show, kept in a timestamp as if it were UTC.
"""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

# The zone of the three origins: the schedule's dates and departure clocks are local there.
LOCAL_ZONE = "America/New_York"

# Destinations that the airports file does not list.
UNLISTED_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

# 1900 to 2199: beyond, time arithmetic overflows and Parquet refuses to write.
DATE_PATTERN = r"^(19|20|21)\d\d-\d{1,2}-\d{1,2}$"
LONGEST_SHIFT_MIN = 7 * 24 * 60
DAY_MIN = 24 * 60
MINUTE_MICROS = 60_000_000


def as_date(text: Column) -> Column:
    """The date that year-month-day text names; null where there is no such day or it is centuries off."""
    return F.when(text.rlike(DATE_PATTERN), text.try_cast("date"))


def date_of(year: str, month: str, day: str) -> Column:
    """The date whose parts are the landed text of three columns."""
    return as_date(F.concat(year, F.lit("-"), month, F.lit("-"), day))


def snapshot_date(source_file: str = "_source_file") -> Column:
    """The date at the end of a snapshot's file name; null where it has none."""
    return as_date(F.regexp_extract(source_file, r"_(\d{4}-\d{2}-\d{2})\.[a-z]+$", 1))


def is_clock(number: Column) -> Column:
    """Whether a clock can show the number."""
    return number.between(0, 2400) & (number % 100 < 60)


def to_wall_time(date: Column, clock: Column) -> Column:
    """The wall time of a local date and clock; null where the clock shows no such time."""
    minutes = F.unix_date(date).cast("bigint") * DAY_MIN + F.floor(clock / 100) * 60 + clock % 100
    return F.when(is_clock(clock), F.timestamp_micros(minutes * MINUTE_MICROS))


def confirm_utc(moment: Column, wall_time: Column, zone: str = LOCAL_ZONE) -> Column:
    """The moment in UTC, where a clock in the zone then shows the wall time; null where the two contradict.

    The moment says what the clock cannot: which of the two repeated hours in November is meant.
    """
    near = moment.between(_plus_minutes(wall_time, -DAY_MIN), _plus_minutes(wall_time, DAY_MIN))
    # Nested, so that a moment too far off for time arithmetic is not converted.
    return F.when(near, F.when(F.from_utc_timestamp(moment, zone) == wall_time, moment))


def next_wall(clock: Column, wall_time: Column) -> Column:
    """The next wall time after the given one at which a clock shows the given time: today's or tomorrow's."""
    today = to_wall_time(F.to_date(wall_time), clock)
    return F.when(today > wall_time, today).otherwise(_plus_minutes(today, DAY_MIN))


def to_utc_after(moment: Column, wall_time: Column, zone: Column) -> Column:
    """The wall time in a zone as UTC; of a repeated hour the first that comes after the moment.

    A wall time that the zone skips is read as if its clock had not been put forward.
    """
    first = F.to_utc_timestamp(wall_time, zone)
    return F.when(first > moment, first).otherwise(_plus_minutes(first, 60))


def shift_minutes(moment: Column, minutes: Column) -> Column:
    """The moment so many minutes later (earlier where negative); null beyond a week, which is no delay."""
    return F.when(F.abs(minutes.cast("bigint")) <= LONGEST_SHIFT_MIN, _plus_minutes(moment, minutes))


def known_zone(name: Column) -> Column:
    """The time zone's name; null where it is not one that Spark knows and time functions would raise."""
    in_a_timestamp = F.concat(F.lit("2000-01-01 00:00:00 "), name).try_cast("timestamp")
    return F.when(name.rlike("^[A-Za-z][A-Za-z0-9_/+-]*$") & in_a_timestamp.isNotNull(), name)


def _plus_minutes(moment: Column, minutes: Column | int) -> Column:
    # As numbers, because Spark adds an interval by way of the session's calendar, at several times the cost.
    return F.timestamp_micros(F.unix_micros(moment) + F.lit(minutes).cast("bigint") * MINUTE_MICROS)
