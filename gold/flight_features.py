"""Features of each flight, known two hours before its scheduled departure."""

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

# An aircraft's earlier legs are scheduled within this time before the flight.
LEGS_MIN = 20 * 60
HOLIDAY_YEARS = range(1990, 2051)
# No window begins earlier than the day before the flight: landings are counted up to 6 hours before the cut-off and
# 14 hours after their flight's scheduled departure.
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
    # Schedule, in New York's time.
    "sched_minute": "int",
    "weekday": "int",
    "month": "int",
    "day_of_year": "int",
    "days_since_holiday": "int",
    "days_to_holiday": "int",
    "distance_mi": "int",
    "sched_duration_min": "int",
    "origin_scheduled": "int",
    # The aircraft, its last departed leg and its last landed leg. Slack is the time from the leg's departure to the
    # flight's, minus the leg's duration out and back. Turn is the time from the leg's scheduled arrival.
    "aircraft_age_years": "int",
    "aircraft_seats": "int",
    "leg_dep_delay_min": "int",
    "leg_slack_min": "int",
    "leg_turn_min": "int",
    "leg_arr_delay_min": "int",
    "leg_landed_min": "int",
    # The origin. En route is the arrival delay minus the departure delay.
    "origin_overdue": "int",
    "origin_departures_1h": "int",
    "origin_dep_delay_1h": "double",
    "origin_departures_3h": "int",
    "origin_dep_delay_3h": "double",
    "origin_dep_late_3h": "double",
    "origin_arr_delay_6h": "double",
    "origin_enroute_6h": "double",
    # Flights of similar length from all origins, and yesterday's flights to the destination.
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
    """One row per flight: features known two hours before scheduled departure, and the label.

    The schedule and the assigned aircraft count as known. Counts and means cover full half hours before the cut-off.
    `late` is null for flights that did not arrive.
    """
    timed = _with_minutes(flights)
    # These tables grow by a few megabytes a year, so they are broadcast. The flights are not shuffled.
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
    """Convert the flights' times to minutes since 1970 in UTC."""
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
    """Add the aircraft's last departed leg and its last landed leg at the cut-off.

    All legs in the window are collected, not only the last few: a leg that is unknown at the cut-off must not displace
    another.
    """
    # A GPU's windows cannot end before the row. The filters below exclude legs with the row's own time.
    legs = Window.partitionBy("tailnum").orderBy("sched_dep").rangeBetween(-LEGS_MIN, Window.currentRow)
    # Flights without a tail number do not share an aircraft.
    has_tailnum = F.col("tailnum").isNotNull()
    departed = F.struct("dep", "dep_delay_min", "sched_duration_min", "sched_dep")
    landed = F.struct("arr", "arr_delay_min", "sched_dep")
    return timed.select(
        *("flight_date", "carrier", "flight", "origin", "dest", "tailnum", "sched_dep_utc", "distance_mi"),
        *("sched_dep", "cutoff", "sched_duration_min", "band"),
        is_late(F.col("arr_delay_min")).alias("late"),
        F.collect_list(F.when(F.col("dep").isNotNull() & has_tailnum, departed)).over(legs).alias("departed"),
        F.collect_list(F.when(F.col("arr").isNotNull() & has_tailnum, landed)).over(legs).alias("landed"),
    ).withColumns(
        {
            "departed": F.array_max(
                F.filter("departed", lambda leg: _is_earlier(leg) & (leg["dep"] < F.col("cutoff")))
            ),
            "landed": F.array_max(F.filter("landed", lambda leg: _is_earlier(leg) & (leg["arr"] < F.col("cutoff")))),
            "sched_minute": (_local_minutes() - F.unix_date("flight_date") * DAY_MIN).cast("int"),
            "bin": bin_number(F.col("cutoff")),
            # The last hour that begins before the cut-off.
            "hour": F.floor((F.col("cutoff") - 1) / 60),
        }
    )


def _is_earlier(leg: Column) -> Column:
    return leg["sched_dep"] < F.col("sched_dep")


def _known_aircraft(planes: DataFrame) -> DataFrame:
    return planes.select(F.col("tailnum").alias("plane"), "year_built", "seats", "valid_from", "valid_to")


def _is_aircraft() -> Column:
    is_valid = (F.col("valid_from") <= _cutoff_date()) & (
        F.col("valid_to").isNull() | (F.col("valid_to") > _cutoff_date())
    )
    return (F.col("tailnum") == F.col("plane")) & is_valid


def _local_minutes() -> Column:
    return F.floor(F.unix_seconds(F.from_utc_timestamp("sched_dep_utc", LOCAL_ZONE)) / 60)


def _cutoff_date() -> Column:
    return F.date_add("flight_date", F.when(F.col("sched_minute") < CUTOFF_MIN, -1).otherwise(0))


def _derived_columns() -> dict[str, Column]:
    departed, landed, day = F.col("departed"), F.col("landed"), F.col("flight_date")
    since_departure = F.col("sched_dep") - departed["dep"]
    has_yesterday = F.col("cutoff") >= day_start(day)
    yesterday = ("dest_arrivals_1d", "dest_arr_delay_1d", "dest_enroute_1d")
    return {
        "cutoff_utc": F.timestamp_seconds(F.col("cutoff") * 60),
        "weekday": F.weekday(day) + 1,
        "month": F.month(day),
        "day_of_year": F.dayofyear(day),
        **_holiday_distances(day),
        "aircraft_age_years": F.year(_cutoff_date()) - F.col("year_built"),
        "aircraft_seats": F.col("seats"),
        "leg_dep_delay_min": departed["dep_delay_min"],
        "leg_slack_min": (since_departure - 2 * departed["sched_duration_min"]).cast("int"),
        "leg_turn_min": (since_departure + departed["dep_delay_min"] - departed["sched_duration_min"]).cast("int"),
        "leg_arr_delay_min": landed["arr_delay_min"],
        "leg_landed_min": (F.col("cutoff") - landed["arr"]).cast("int"),
        **{name: F.when(has_yesterday, F.col(name)) for name in yesterday},
        "weather_age_min": (F.col("cutoff") - F.col("observed")).cast("int"),
    }


def _holiday_distances(day: Column) -> dict[str, Column]:
    """Return the days since the last and to the next federal holiday; null outside HOLIDAY_YEARS."""
    first, days_since, days_until = _holiday_table()
    position = F.datediff(day, F.lit(first))
    return {
        "days_since_holiday": _pick(days_since, position),
        "days_to_holiday": _pick(days_until, position),
    }


def _pick(numbers: str, position: Column) -> Column:
    # The optimizer folds one literal to an array. An array of literals would be one expression per element.
    return F.get(F.split(F.lit(numbers), ",").cast("array<int>"), position)


@cache
def _holiday_table() -> tuple[date, str, str]:
    """Return the first day, and for each day from it the days since and to a holiday, as comma-separated text."""
    first, last = date(HOLIDAY_YEARS.start, 1, 1), date(HOLIDAY_YEARS.stop - 1, 12, 31)
    years = range(HOLIDAY_YEARS.start - 1, HOLIDAY_YEARS.stop + 1)
    holiday_dates = sorted(holidays.country_holidays("US", years=years, observed=False))
    days = [first + timedelta(days) for days in range((last - first).days + 1)]
    since = [(day - holiday_dates[bisect_right(holiday_dates, day) - 1]).days for day in days]
    until = [(holiday_dates[bisect_left(holiday_dates, day)] - day).days for day in days]
    return first, ",".join(map(str, since)), ",".join(map(str, until))
