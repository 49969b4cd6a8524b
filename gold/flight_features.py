"""What was known about each flight two hours before its scheduled departure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import date, timedelta
from functools import cache

import holidays
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from flights.clock import LOCAL_ZONE
from flights.grain import FLIGHT_KEY
from flights.keys import ORIGINS, is_late
from gold._features_state import (
    CUTOFF_MIN,
    DAY_MIN,
    WEATHER,
    band,
    bands,
    bin_number,
    day_start,
    minutes,
    observations,
    origins,
    previous_days,
)
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.tables import incremental, lookup, table
from lakehouse.definitions.write_modes import Replace

# The earlier legs of an aircraft are those scheduled in this time before the flight.
LEGS_MIN = 20 * 60
HOLIDAY_YEARS = range(1990, 2051)
# No window begins before the day before the flight: a landing is counted up to 6 hours before the cut-off and 14 hours
# after its flight's scheduled departure.
LOOKBACK_DAYS = 1

COLUMNS = {
    "flight_date": "date",
    "carrier": "string",
    "flight": "int",
    "origin": "string",
    "dest": "string",
    "sched_dep_utc": "timestamp",
    "cutoff_utc": "timestamp",
    "late": "boolean",
    "tailnum": "string",
    # The schedule, in New York's time.
    "sched_minute": "int",
    "weekday": "int",
    "month": "int",
    "day_of_year": "int",
    "days_since_holiday": "int",
    "days_to_holiday": "int",
    "distance_mi": "int",
    "sched_duration_min": "int",
    "origin_scheduled": "int",
    # The aircraft, and its last legs that had left and landed. From the leg's departure to the flight's, slack is what
    # flying it and back would leave; turn is from the leg's scheduled arrival.
    "aircraft_age_years": "int",
    "aircraft_seats": "int",
    "leg_dep_delay_min": "int",
    "leg_slack_min": "int",
    "leg_turn_min": "int",
    "leg_arr_delay_min": "int",
    "leg_landed_min": "int",
    # At the origin; en route is arrival delay less departure delay.
    "origin_overdue": "int",
    "origin_departures_1h": "int",
    "origin_dep_delay_1h": "double",
    "origin_departures_3h": "int",
    "origin_dep_delay_3h": "double",
    "origin_dep_late_3h": "double",
    "origin_arr_delay_6h": "double",
    "origin_enroute_6h": "double",
    # Of flights of similar length from all origins, and of yesterday's to the destination.
    "band_arrivals_6h": "int",
    "band_arr_delay_6h": "double",
    "band_enroute_6h": "double",
    "dest_arrivals_1d": "int",
    "dest_arr_delay_1d": "double",
    "dest_enroute_1d": "double",
    "weather_age_min": "int",
    **dict.fromkeys(WEATHER, "double"),
}


@table(
    "gold.flight_features",
    columns=COLUMNS,
    write=Replace(partition="flight_date"),
    key=FLIGHT_KEY,
    rules=(
        Rule("origin_is_new_york", f"origin IN {ORIGINS}", "fail"),
        Rule("counts_are_not_negative", "origin_overdue >= 0 AND origin_scheduled > 0", "fail"),
    ),
    flights=incremental(
        "silver.flights", date_column="flight_date", lookback_days=LOOKBACK_DAYS, affects_days=LOOKBACK_DAYS
    ),
    weather=incremental(
        "silver.weather", date_column="weather_date", lookback_days=LOOKBACK_DAYS, affects_days=LOOKBACK_DAYS
    ),
    planes=lookup("silver.planes"),
)
def flight_features(flights: DataFrame, weather: DataFrame, planes: DataFrame) -> DataFrame:
    """One row per flight: what was known two hours before scheduled departure, and the label.

    The schedule, and which aircraft is to fly, count as known. Counts and means are over whole half hours that had ended by the
    cut-off. `late` is null for flights that did not arrive.
    """
    timed = _with_minutes(flights)
    # These tables grow by a few megabytes a year, far below what a broadcast can hold; the flights are not shuffled for them.
    return (
        _with_legs(timed)
        .join(F.broadcast(_known_aircraft(planes)), _is_aircraft(), "left")
        .join(F.broadcast(origins(timed)), ["origin", "bin"], "left")
        .join(F.broadcast(bands(timed)), ["band", "bin"], "left")
        .join(F.broadcast(previous_days(timed)), ["dest", "flight_date"], "left")
        .join(F.broadcast(observations(weather)), ["origin", "hour"], "left")
        .withColumns(_derived_columns())
        .select(*COLUMNS)
    )


def _with_minutes(flights: DataFrame) -> DataFrame:
    """The flights with times as minutes since 1970 in UTC."""
    return flights.select(
        *("flight_date", "carrier", "flight", "origin", "dest", "tailnum", "sched_dep_utc", "distance_mi"),
        *("dep_delay_min", "arr_delay_min"),
        (F.col("arr_delay_min") - F.col("dep_delay_min")).alias("enroute"),
        band(F.col("distance_mi")).alias("band"),
        minutes("sched_dep_utc").alias("sched_dep"),
        (minutes("sched_dep_utc") - CUTOFF_MIN).alias("cutoff"),
        (minutes("sched_arr_utc") - minutes("sched_dep_utc")).cast("int").alias("sched_duration_min"),
        minutes("dep_utc").alias("dep"),
        minutes("arr_utc").alias("arr"),
    )


def _with_legs(timed: DataFrame) -> DataFrame:
    """The flights with the aircraft's last leg that had left, and the last that had landed, at the cut-off.

    What is not known at the cut-off must not move another leg out of sight: so all legs in the time are gathered, not the
    last few.
    """
    # A GPU's windows do not end before the row: legs of its own time are left out below.
    legs = Window.partitionBy("tailnum").orderBy("sched_dep").rangeBetween(-LEGS_MIN, Window.currentRow)
    # Flights without a tail number are not one aircraft's.
    named = F.col("tailnum").isNotNull()
    left = F.struct("dep", "dep_delay_min", "sched_duration_min", "sched_dep")
    landed = F.struct("arr", "arr_delay_min", "sched_dep")
    return timed.select(
        *("flight_date", "carrier", "flight", "origin", "dest", "tailnum", "sched_dep_utc", "distance_mi"),
        *("sched_dep", "cutoff", "sched_duration_min", "band"),
        is_late(F.col("arr_delay_min")).alias("late"),
        F.collect_list(F.when(F.col("dep").isNotNull() & named, left)).over(legs).alias("left"),
        F.collect_list(F.when(F.col("arr").isNotNull() & named, landed)).over(legs).alias("landed"),
    ).withColumns(
        {
            "left": F.array_max(F.filter("left", lambda leg: _earlier(leg) & (leg["dep"] < F.col("cutoff")))),
            "landed": F.array_max(F.filter("landed", lambda leg: _earlier(leg) & (leg["arr"] < F.col("cutoff")))),
            "sched_minute": (_local_minutes() - F.unix_date("flight_date") * DAY_MIN).cast("int"),
            "bin": bin_number(F.col("cutoff")),
            # The hour whose beginning is the last before the cut-off.
            "hour": F.floor((F.col("cutoff") - 1) / 60),
        }
    )


def _earlier(leg: Column) -> Column:
    return leg["sched_dep"] < F.col("sched_dep")


def _known_aircraft(planes: DataFrame) -> DataFrame:
    return planes.select(F.col("tailnum").alias("plane"), "year_built", "seats", "valid_from", "valid_to")


def _is_aircraft() -> Column:
    known = (F.col("valid_from") <= _cutoff_date()) & (
        F.col("valid_to").isNull() | (F.col("valid_to") > _cutoff_date())
    )
    return (F.col("tailnum") == F.col("plane")) & known


def _local_minutes() -> Column:
    return F.floor(F.unix_seconds(F.from_utc_timestamp("sched_dep_utc", LOCAL_ZONE)) / 60)


def _cutoff_date() -> Column:
    return F.date_add("flight_date", F.when(F.col("sched_minute") < CUTOFF_MIN, -1).otherwise(0))


def _derived_columns() -> dict[str, Column]:
    left, landed, day = F.col("left"), F.col("landed"), F.col("flight_date")
    since_left = F.col("sched_dep") - left["dep"]
    summed_up = F.col("cutoff") >= day_start(day)
    yesterday = ("dest_arrivals_1d", "dest_arr_delay_1d", "dest_enroute_1d")
    return {
        "cutoff_utc": F.timestamp_seconds(F.col("cutoff") * 60),
        "weekday": F.weekday(day) + 1,
        "month": F.month(day),
        "day_of_year": F.dayofyear(day),
        **_holiday_distances(day),
        "aircraft_age_years": F.year(_cutoff_date()) - F.col("year_built"),
        "aircraft_seats": F.col("seats"),
        "leg_dep_delay_min": left["dep_delay_min"],
        "leg_slack_min": (since_left - 2 * left["sched_duration_min"]).cast("int"),
        "leg_turn_min": (since_left + left["dep_delay_min"] - left["sched_duration_min"]).cast("int"),
        "leg_arr_delay_min": landed["arr_delay_min"],
        "leg_landed_min": (F.col("cutoff") - landed["arr"]).cast("int"),
        **{name: F.when(summed_up, F.col(name)) for name in yesterday},
        "weather_age_min": (F.col("cutoff") - F.col("observed")).cast("int"),
    }


def _holiday_distances(day: Column) -> dict[str, Column]:
    """Days since the last and to the next federal holiday; null outside the years covered."""
    first, since, until = _holiday_table()
    position = F.datediff(day, F.lit(first))
    return {
        "days_since_holiday": _entry(since, position),
        "days_to_holiday": _entry(until, position),
    }


def _entry(numbers: str, position: Column) -> Column:
    # One literal, which the optimizer folds to an array: an array of literals is an expression for each.
    return F.get(F.split(F.lit(numbers), ",").cast("array<int>"), position)


@cache
def _holiday_table() -> tuple[date, str, str]:
    """The first day covered, and for it and each later one the days since and to a holiday."""
    first, last = date(HOLIDAY_YEARS.start, 1, 1), date(HOLIDAY_YEARS.stop - 1, 12, 31)
    years = range(HOLIDAY_YEARS.start - 1, HOLIDAY_YEARS.stop + 1)
    known = sorted(holidays.country_holidays("US", years=years, observed=False))
    days = [first + timedelta(days) for days in range((last - first).days + 1)]
    since = [(day - known[bisect_right(known, day) - 1]).days for day in days]
    until = [(known[bisect_left(known, day)] - day).days for day in days]
    return first, ",".join(map(str, since)), ",".join(map(str, until))
