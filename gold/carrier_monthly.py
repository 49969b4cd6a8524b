"""Punctuality by airline and month."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from flights.keys import is_late
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.tables import incremental, table
from lakehouse.definitions.write_modes import Replace


@table(
    "gold.carrier_monthly",
    columns={
        "carrier": "string",
        "month": "date",
        "flights": "bigint",
        "cancelled": "bigint",
        "avg_arr_delay_min": "double",
        "late_rate": "double",
    },
    write=Replace(partition="month", unit="month"),
    key=("carrier", "month"),
    rules=(
        Rule("cancelled_is_a_part", "cancelled BETWEEN 0 AND flights", "fail"),
        Rule("late_rate_is_a_rate", "late_rate IS NULL OR late_rate BETWEEN 0 AND 1", "fail"),
    ),
    flights=incremental("silver.flights", date_column="flight_date"),
)
def carrier_monthly(flights: DataFrame) -> DataFrame:
    """One row per airline and local month of departure. `month` is its first day.

    Delays are averaged over the flights that have one; `late_rate` is over those that arrived.
    """
    return flights.groupBy("carrier", F.trunc("flight_date", "month").alias("month")).agg(
        F.count("*").alias("flights"),
        F.count_if("cancelled").alias("cancelled"),
        F.avg("arr_delay_min").alias("avg_arr_delay_min"),
        F.avg(is_late(F.col("arr_delay_min")).cast("double")).alias("late_rate"),
    )
