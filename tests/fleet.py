"""Register of buses: landed snapshots, the history of each bus, and the fleet on each day of a change."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS, source
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import History, Rebuild
from lakehouse.spark import parse, unparsed
from tests.lakes import snapshot_date

HEADER = "plate,model,seats"


def snapshot(**seats: str) -> str:
    """Return a snapshot of the register with the seats of each bus."""
    return "\n".join([HEADER, *(f"{plate},City,{count}" for plate, count in seats.items())]) + "\n"


SNAPSHOTS = {
    "buses_2024-01-01.csv": snapshot(B1="50", B2="60", B3="70"),
    "buses_2024-02-01.csv": snapshot(B1="50", B2="61"),  # B3 is gone
    "buses_2024-03-01.csv": snapshot(B1="many", B2="61", B4="80"),  # the seats of B1 cannot be parsed
    "buses_2024-04-01.csv": snapshot(B1="51", B3="70", B4="80"),  # B2 is gone, B3 is back
}

raw_buses = source(
    "raw.buses",
    landing="buses",
    columns=("plate", "model", "seats"),
    # A corrected snapshot of the same name replaces the first. A bus that it lacks was not in the register.
    on_redelivery="replace",
)


@table(
    "clean.buses",
    columns={"plate": "string", "model": "string", "seats": "int", "snapshot_date": "date"},
    write=History(effective_column="snapshot_date", has_snapshots=True),
    key=("plate",),
    rules=(Rule("snapshot_is_dated", "snapshot_date IS NOT NULL"),),
    buses="raw.buses",
)
def buses(buses: DataFrame) -> DataFrame:
    """One row per bus and time for which the register listed it with the same values."""
    return buses.select(
        parse("plate", "string", ("NA",)).alias("plate"),
        "model",
        parse("seats", "int").alias("seats"),
        snapshot_date().alias("snapshot_date"),
        unparsed({"seats": "int"}),
        *ORIGIN_COLUMNS,
    )


@table(
    "mart.fleet",
    columns={"day": "date", "buses": "bigint", "seats": "bigint"},
    write=Rebuild(),
    key=("day",),
    buses="clean.buses",
)
def fleet(buses: DataFrame) -> DataFrame:
    """One row per day on which the register changed, with the buses of that day."""
    days = buses.select(F.explode(F.array("valid_from", "valid_to")).alias("day")).where("day IS NOT NULL").distinct()
    is_valid = (F.col("valid_from") <= F.col("day")) & (F.col("valid_to").isNull() | (F.col("valid_to") > F.col("day")))
    return days.join(buses, is_valid).groupBy("day").agg(F.count("*").alias("buses"), F.sum("seats").alias("seats"))
