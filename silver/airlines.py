"""Airlines from the newest snapshot."""

from __future__ import annotations

from pyspark.sql import DataFrame

from flights.clock import snapshot_date
from flights.keys import MISSING
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import Merge
from lakehouse.spark import parse


@table(
    "silver.airlines",
    columns={"carrier": "string", "name": "string", "snapshot_date": "date"},
    write=Merge(newest_by=("snapshot_date",)),
    key=("carrier",),
    rules=(
        Rule("snapshot_is_dated", "snapshot_date IS NOT NULL"),
        Rule("carrier_is_a_code", "carrier RLIKE '^[A-Z0-9]{2,3}$'"),
        Rule("airline_is_named", "name IS NOT NULL", "warn"),
    ),
    airlines="bronze.airlines",
)
def airlines(airlines: DataFrame) -> DataFrame:
    """One row per airline and snapshot."""
    return airlines.select(
        parse("carrier", "string", MISSING).alias("carrier"),
        parse("name", "string", MISSING).alias("name"),
        snapshot_date().alias("snapshot_date"),
        *ORIGIN_COLUMNS,
    )
