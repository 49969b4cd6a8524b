"""Punctuality by New York airport and day."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from flights.keys import ORIGINS, is_late
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.tables import incremental, table
from lakehouse.definitions.write_modes import Replace


@table(
    "gold.airport_daily",
    columns={
        "flight_date": "date",
        "origin": "string",
        "flights": "bigint",
        "cancelled": "bigint",
        "avg_dep_delay_min": "double",
        "avg_arr_delay_min": "double",
        "late_rate": "double",
    },
    write=Replace(partition="flight_date"),
    key=("flight_date", "origin"),
    rules=(
        Rule("origin_is_new_york", f"origin IN {ORIGINS}", "fail"),
        Rule("cancelled_is_a_part", "cancelled BETWEEN 0 AND flights", "fail"),
        Rule("late_rate_is_a_rate", "late_rate IS NULL OR late_rate BETWEEN 0 AND 1", "fail"),
    ),
    flights=incremental("silver.flights", date_column="flight_date"),
)
def airport_daily(flights: DataFrame) -> DataFrame:
    """One row per local date and airport of departure.

    Delays are averaged over the flights that have one; `late_rate` is over those that arrived.
    """
    return flights.groupBy("flight_date", "origin").agg(
        F.count("*").alias("flights"),
        F.count_if("cancelled").alias("cancelled"),
        F.avg("dep_delay_min").alias("avg_dep_delay_min"),
        F.avg("arr_delay_min").alias("avg_arr_delay_min"),
        F.avg(is_late(F.col("arr_delay_min")).cast("double")).alias("late_rate"),
    )
