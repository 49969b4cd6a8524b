"""Conversion between local clocks and UTC. Column in, Column out; the session's time zone is UTC.

A clock is an integer, 517 for 5:17 and 2400 for the midnight that ends the day. A wall time is the date and time on a
local clock, stored in a timestamp as if it were UTC.
"""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

# Time zone of the three origins, and of the schedule's dates and departure clocks.
LOCAL_ZONE = "America/New_York"

# Destinations that are missing in the airports file.
UNLISTED_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

# 1900 to 2199: other years overflow time arithmetic, and Parquet cannot store them.
DATE_PATTERN = r"^(19|20|21)\d\d-\d{1,2}-\d{1,2}$"
LONGEST_SHIFT_MIN = 7 * 24 * 60
DAY_MIN = 24 * 60
MINUTE_MICROS = 60_000_000


def as_date(text: Column) -> Column:
    """Parse year-month-day text as a date; null for an invalid day or a year outside 1900 to 2199."""
    return F.when(text.rlike(DATE_PATTERN), text.try_cast("date"))


def date_of(year: str, month: str, day: str) -> Column:
    """Parse a date from three columns of landed text."""
    return as_date(F.concat(year, F.lit("-"), month, F.lit("-"), day))


def snapshot_date(source_file: str = "_source_file") -> Column:
    """Parse the date at the end of a snapshot's file name; null if there is none."""
    return as_date(F.regexp_extract(source_file, r"_(\d{4}-\d{2}-\d{2})\.[a-z]+$", 1))


def is_clock(number: Column) -> Column:
    """Return true if the number is a valid clock."""
    return number.between(0, 2400) & (number % 100 < 60)


def to_wall_time(date: Column, clock: Column) -> Column:
    """Return the wall time of a local date and clock; null for an invalid clock."""
    minutes = F.unix_date(date).cast("bigint") * DAY_MIN + F.floor(clock / 100) * 60 + clock % 100
    return F.when(is_clock(clock), F.timestamp_micros(minutes * MINUTE_MICROS))


def confirm_utc(moment: Column, wall_time: Column, zone: str = LOCAL_ZONE) -> Column:
    """Return the moment in UTC if a clock in the zone shows the wall time at that moment; otherwise null.

    The wall time alone does not identify which of the two repeated hours in November is meant.
    """
    near = moment.between(_plus_minutes(wall_time, -DAY_MIN), _plus_minutes(wall_time, DAY_MIN))
    # Nested, because a distant moment would overflow time arithmetic.
    return F.when(near, F.when(F.from_utc_timestamp(moment, zone) == wall_time, moment))


def next_wall(clock: Column, wall_time: Column) -> Column:
    """Return the next wall time after the given one at which a clock shows the time, today or tomorrow."""
    today = to_wall_time(F.to_date(wall_time), clock)
    return F.when(today > wall_time, today).otherwise(_plus_minutes(today, DAY_MIN))


def to_utc_after(moment: Column, wall_time: Column, zone: Column) -> Column:
    """Convert a wall time in a zone to UTC. In a repeated hour, use the first occurrence after the moment.

    A wall time that the zone skips is converted as if the clock had not been put forward.
    """
    first = F.to_utc_timestamp(wall_time, zone)
    return F.when(first > moment, first).otherwise(_plus_minutes(first, 60))


def shift_minutes(moment: Column, minutes: Column) -> Column:
    """Shift a moment by a number of minutes; null beyond a week, because no delay is that long."""
    return F.when(F.abs(minutes.cast("bigint")) <= LONGEST_SHIFT_MIN, _plus_minutes(moment, minutes))


def known_zone(name: Column) -> Column:
    """Return the time zone's name; null if Spark does not know it, because time functions would raise."""
    in_a_timestamp = F.concat(F.lit("2000-01-01 00:00:00 "), name).try_cast("timestamp")
    return F.when(name.rlike("^[A-Za-z][A-Za-z0-9_/+-]*$") & in_a_timestamp.isNotNull(), name)


def _plus_minutes(moment: Column, minutes: Column | int) -> Column:
    # Integers, because Spark adds an interval through the session's calendar, at several times the cost.
    return F.timestamp_micros(F.unix_micros(moment) + F.lit(minutes).cast("bigint") * MINUTE_MICROS)
