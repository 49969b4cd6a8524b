"""A register of aircraft, from its landed snapshots to what the fleet was on each day that it changed."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from bronze.planes import planes as bronze_planes
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import Rebuild
from silver.planes import planes as silver_planes

__all__ = ["HEADER", "SNAPSHOTS", "bronze_planes", "fleet", "silver_planes", "snapshot"]
HEADER = "tailnum,year,type,manufacturer,model,engines,seats,speed,engine"


def snapshot(**seats: str) -> str:
    return "\n".join([HEADER, *(f"{tail},2004,Jet,M,X,2,{count},NA,Fan" for tail, count in seats.items())]) + "\n"


SNAPSHOTS = {
    "planes_2013-01-01.csv": snapshot(N1="50", N2="60", N3="70"),
    "planes_2013-02-01.csv": snapshot(N1="50", N2="61"),  # N3 is gone
    "planes_2013-03-01.csv": snapshot(N1="many", N2="61", N4="80"),  # N1 is there, but cannot be read
    "planes_2013-04-01.csv": snapshot(N1="51", N3="70", N4="80"),  # N2 is gone, N3 is back
}


@table(
    "gold.fleet",
    columns={"day": "date", "planes": "bigint", "seats": "bigint"},
    write=Rebuild(),
    key=("day",),
    planes="silver.planes",
)
def fleet(planes: DataFrame) -> DataFrame:
    """One row per day on which the register changed: the aircraft that were in it then."""
    days = planes.select(F.explode(F.array("valid_from", "valid_to")).alias("day")).where("day IS NOT NULL").distinct()
    known = (F.col("valid_from") <= F.col("day")) & (F.col("valid_to").isNull() | (F.col("valid_to") > F.col("day")))
    return days.join(planes, known).groupBy("day").agg(F.count("*").alias("planes"), F.sum("seats").alias("seats"))
