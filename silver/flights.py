"""Flights: typed, every time in UTC."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from flights.clock import UNLISTED_ZONES, confirmed, date_of, is_clock, next_at, shifted, wall
from flights.keys import FLIGHT_KEY, MISSING, ORIGINS, also_unreadable
from lakehouse.columns import typed, unreadable
from lakehouse.declare import ORIGIN_COLUMNS, Merge, Rule, looks_up, table

COLUMNS = {
    "flight_date": "date",
    "carrier": "string",
    "flight": "int",
    "origin": "string",
    "dest": "string",
    "tailnum": "string",
    "sched_dep_utc": "timestamp",
    "sched_arr_utc": "timestamp",
    "dep_utc": "timestamp",
    "arr_utc": "timestamp",
    "dep_delay_min": "int",
    "arr_delay_min": "int",
    "air_time_min": "int",
    "distance_mi": "int",
    "cancelled": "boolean",
}
CLOCKS = ("sched_dep_time", "sched_arr_time", "dep_time")
NUMBERS = ("year", "month", "day", *CLOCKS, "dep_delay", "arr_delay", "flight", "air_time", "distance")
LANDED_TYPES = {"time_hour": "timestamp", **dict.fromkeys(NUMBERS, "int")}
RULES = (
    Rule("origin_is_new_york", f"origin IN {ORIGINS}"),
    Rule("distance_is_positive", "distance_mi > 0"),
    Rule("air_time_is_positive", "air_time_min IS NULL OR air_time_min > 0"),
    Rule("departure_delay_is_plausible", "dep_delay_min IS NULL OR dep_delay_min BETWEEN -180 AND 4320"),
    Rule("arrival_delay_is_plausible", "arr_delay_min IS NULL OR arr_delay_min BETWEEN -360 AND 4320"),
    Rule("departure_has_a_delay", "cancelled = (dep_delay_min IS NULL)"),
    Rule("cancelled_flight_has_no_arrival", "NOT cancelled OR (arr_delay_min IS NULL AND air_time_min IS NULL)"),
    Rule("arrival_follows_departure", "arr_utc IS NULL OR arr_utc > dep_utc"),
    Rule("departed_aircraft_is_named", "cancelled OR tailnum IS NOT NULL", "warn"),
    # Null when the airport is not known: its clock cannot be read.
    Rule("scheduled_arrival_is_known", "sched_arr_utc IS NOT NULL", "warn"),
    # It is computed as the next time after departure: only a mistake in this code can break it.
    Rule("scheduled_arrival_follows_departure", "sched_arr_utc IS NULL OR sched_arr_utc > sched_dep_utc", "fail"),
)


# A change in the airports waits for a flight's next delivery: a new snapshot re-dates all of them, and time zones stay.
@table(
    "silver.flights",
    columns=COLUMNS,
    write=Merge(),
    key=FLIGHT_KEY,
    rules=RULES,
    stats=("flight_date", "dep_utc", "arr_utc"),
    flights="bronze.flights",
    airports=looks_up("silver.airports"),
)
def flights(flights: DataFrame, airports: DataFrame) -> DataFrame:
    """One row per scheduled departure.

    A cancelled flight did not depart. A diverted one departed but has no arrival delay, and so no arrival here: the clock
    that the file may show for it does not say the day. A `time_hour` that contradicts the local date and clock counts as
    unreadable.
    """
    return _with_schedule(flights, airports).select(
        "flight_date",
        _text("carrier"),
        _number("flight"),
        _text("origin"),
        _text("dest"),
        _text("tailnum"),
        "sched_dep_utc",
        "sched_arr_utc",
        shifted(F.col("sched_dep_utc"), _number("dep_delay")).alias("dep_utc"),
        shifted(F.col("sched_arr_utc"), _number("arr_delay")).alias("arr_utc"),
        _number("dep_delay").alias("dep_delay_min"),
        _number("arr_delay").alias("arr_delay_min"),
        _number("air_time").alias("air_time_min"),
        _number("distance").alias("distance_mi"),
        _number("dep_time").isNull().alias("cancelled"),
        _unreadable(),
        *ORIGIN_COLUMNS,
    )


def _with_schedule(flights: DataFrame, airports: DataFrame) -> DataFrame:
    """The landed rows with the scheduled departure and arrival in UTC."""
    zones = airports.select(F.col("faa").alias("dest"), F.col("tzone").alias("_zone"))
    unlisted = F.coalesce(*[F.when(F.col("dest") == dest, F.lit(zone)) for dest, zone in UNLISTED_ZONES.items()])
    clock = _number("sched_dep_time")
    wall_hour = F.date_trunc("hour", wall(F.col("flight_date"), clock))
    hour = confirmed(typed("time_hour", "timestamp", MISSING), wall_hour)
    return (
        flights.join(F.broadcast(zones), "dest", "left")
        .withColumn("flight_date", date_of("year", "month", "day"))
        .withColumn("sched_dep_utc", shifted(hour, clock % 100))
        .withColumn(
            "sched_arr_utc",
            next_at(_number("sched_arr_time"), F.col("sched_dep_utc"), F.coalesce("_zone", unlisted)),
        )
    )


def _unreadable() -> Column:
    no_clock = {name: ~is_clock(_number(name)) for name in CLOCKS}
    no_day = _number("day").isNotNull() & F.col("flight_date").isNull()
    contradiction = typed("time_hour", "timestamp", MISSING).isNotNull() & F.col("sched_dep_utc").isNull()
    return also_unreadable(unreadable(LANDED_TYPES, MISSING), day=no_day, time_hour=contradiction, **no_clock)


def _number(name: str) -> Column:
    return typed(name, "int", MISSING).alias(name)


def _text(name: str) -> Column:
    return typed(name, "string", MISSING).alias(name)
