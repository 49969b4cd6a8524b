"""Flights with parsed values and all times in UTC."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from flights.clock import (
    UNLISTED_ZONES,
    confirm_utc,
    date_of,
    is_clock,
    next_wall,
    shift_minutes,
    to_utc_after,
    to_wall_time,
)
from flights.grain import FLIGHT_KEY
from flights.keys import MISSING, ORIGINS, add_unparsed, is_lost
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import UNPARSED, lookup, table
from lakehouse.definitions.write_modes import Merge
from lakehouse.spark import parse, unparsed

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
DATE_PARTS = ("year", "month", "day")
CLOCKS = ("sched_dep_time", "sched_arr_time", "dep_time")
# No column uses these values, but text in them shows a broken row: a stray pair of quotes can merge rows into a value.
UNUSED = ("arr_time", "hour", "minute")
NUMBERS = (*DATE_PARTS, *CLOCKS, "dep_delay", "arr_delay", "flight", "air_time", "distance", *UNUSED)
LANDED_TYPES = {"time_hour": "timestamp", **dict.fromkeys(NUMBERS, "int")}
RULES = (
    # A longer value is not a code: it has an extra blank, or a stray pair of quotes merged rows into it.
    Rule(
        "codes_have_their_length",
        "length(carrier) = 2 AND length(dest) = 3 AND (tailnum IS NULL OR length(tailnum) <= 6)",
    ),
    Rule("origin_is_new_york", f"origin IN {ORIGINS}"),
    Rule("distance_is_positive", "distance_mi > 0"),
    Rule("air_time_is_positive", "air_time_min IS NULL OR air_time_min > 0"),
    Rule("departure_delay_is_plausible", "dep_delay_min IS NULL OR dep_delay_min BETWEEN -180 AND 4320"),
    Rule("arrival_delay_is_plausible", "arr_delay_min IS NULL OR arr_delay_min BETWEEN -360 AND 4320"),
    Rule("departure_has_a_delay", "cancelled = (dep_delay_min IS NULL)"),
    Rule("cancelled_flight_has_no_arrival", "NOT cancelled OR (arr_delay_min IS NULL AND air_time_min IS NULL)"),
    Rule("arrival_follows_departure", "arr_utc IS NULL OR arr_utc > dep_utc"),
    Rule("departed_aircraft_is_named", "cancelled OR tailnum IS NOT NULL", "warn"),
    # Null if the airport is unknown, because its time zone is unknown.
    Rule("scheduled_arrival_is_known", "sched_arr_utc IS NOT NULL", "warn"),
    # The code computes the next time after departure, so only an error in the code can violate this rule.
    Rule("scheduled_arrival_follows_departure", "sched_arr_utc IS NULL OR sched_arr_utc > sched_dep_utc", "fail"),
)


# Changed airports do not rebuild flights: a new snapshot changes the date of all airports, but time zones stay.
@table(
    "silver.flights",
    columns=COLUMNS,
    write=Merge(),
    key=FLIGHT_KEY,
    rules=RULES,
    stats=("dep_utc", "arr_utc"),
    flights="bronze.flights",
    airports=lookup("silver.airports"),
)
def flights(flights: DataFrame, airports: DataFrame) -> DataFrame:
    """One row per scheduled departure.

    A cancelled flight did not depart. A diverted flight departed but has no arrival delay. Its arrival is null here,
    because the day of its arrival clock is unknown. A `time_hour` that contradicts the local date and clock counts as
    unparsed.
    """
    return _with_schedule(_parse_flights(flights), airports).select(
        "flight_date",
        "carrier",
        "flight",
        "origin",
        "dest",
        "tailnum",
        "sched_dep_utc",
        "sched_arr_utc",
        shift_minutes(F.col("sched_dep_utc"), F.col("dep_delay_min")).alias("dep_utc"),
        shift_minutes(F.col("sched_arr_utc"), F.col("arr_delay_min")).alias("arr_utc"),
        "dep_delay_min",
        "arr_delay_min",
        "air_time_min",
        "distance_mi",
        F.col("_dep_time").isNull().alias("cancelled"),
        add_unparsed(
            F.col(UNPARSED),
            day=is_lost("flight_date", "_year", "_month", "_day"),
            time_hour=is_lost("sched_dep_utc", "_time_hour", "_wall_hour"),
            **{name: ~is_clock(F.col(f"_{name}")) for name in CLOCKS},
        ),
        *ORIGIN_COLUMNS,
    )


# Each step is a separate projection, because Spark would repeat its expression at each use in the next step.
def _parse_flights(flights: DataFrame) -> DataFrame:
    """Parse the landed values. Inputs of the schedule have names with an underscore."""
    return flights.select(
        date_of(*DATE_PARTS).alias("flight_date"),
        *[parse(name, "string", MISSING).alias(name) for name in ("carrier", "origin", "dest", "tailnum")],
        parse("flight", "int", MISSING).alias("flight"),
        parse("dep_delay", "int", MISSING).alias("dep_delay_min"),
        parse("arr_delay", "int", MISSING).alias("arr_delay_min"),
        parse("air_time", "int", MISSING).alias("air_time_min"),
        parse("distance", "int", MISSING).alias("distance_mi"),
        *[parse(name, "int", MISSING).alias(f"_{name}") for name in (*DATE_PARTS, *CLOCKS)],
        parse("time_hour", "timestamp", MISSING).alias("_time_hour"),
        unparsed(LANDED_TYPES, MISSING),
        *ORIGIN_COLUMNS,
    )


def _with_schedule(flights: DataFrame, airports: DataFrame) -> DataFrame:
    """Add the scheduled departure and arrival in UTC."""
    zones = airports.select(F.col("faa").alias("dest"), F.col("tzone").alias("_listed_zone"))
    unlisted = F.coalesce(*[F.when(F.col("dest") == dest, F.lit(zone)) for dest, zone in UNLISTED_ZONES.items()])
    zone, sched_dep, sched_dep_utc = F.col("_zone"), F.col("_sched_dep_time"), F.col("sched_dep_utc")
    return (
        flights.join(F.broadcast(zones), "dest", "left")
        .withColumns(
            {
                "_zone": F.coalesce("_listed_zone", unlisted),
                "_wall_hour": F.date_trunc("hour", to_wall_time(F.col("flight_date"), sched_dep)),
            }
        )
        .withColumn(
            "sched_dep_utc", shift_minutes(confirm_utc(F.col("_time_hour"), F.col("_wall_hour")), sched_dep % 100)
        )
        .withColumn("_dep_local", F.from_utc_timestamp(sched_dep_utc, zone))
        .withColumn("_arr_local", next_wall(F.col("_sched_arr_time"), F.col("_dep_local")))
        .withColumn("sched_arr_utc", to_utc_after(sched_dep_utc, F.col("_arr_local"), zone))
    )
