"""Airports from the newest snapshot."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from flights.clock import known_zone, snapshot_date
from flights.keys import MISSING, add_unparsed
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import Merge
from lakehouse.spark import parse, unparsed

LANDED_TYPES = {"lat": "double", "lon": "double", "alt": "int", "tz": "double"}


@table(
    "silver.airports",
    columns={
        "faa": "string",
        "name": "string",
        "lat": "double",
        "lon": "double",
        "alt_ft": "int",
        "utc_offset_h": "double",
        "dst": "string",
        "tzone": "string",
        "snapshot_date": "date",
    },
    write=Merge(newest_by=("snapshot_date",)),
    key=("faa",),
    rules=(
        Rule("snapshot_is_dated", "snapshot_date IS NOT NULL"),
        Rule("latitude_is_in_range", "lat BETWEEN -90 AND 90"),
        Rule("longitude_is_in_range", "lon BETWEEN -180 AND 180"),
        Rule("altitude_is_plausible", "alt_ft IS NULL OR alt_ft BETWEEN -1500 AND 20000", "warn"),
        Rule("offset_is_plausible", "utc_offset_h IS NULL OR utc_offset_h BETWEEN -12 AND 14", "warn"),
    ),
    airports="bronze.airports",
)
def airports(airports: DataFrame) -> DataFrame:
    """One row per airport and snapshot.

    A `tzone` that Spark does not know counts as unparsed, because time functions raise on it.
    """
    name, landed_zone = parse("name", "string", MISSING), parse("tzone", "string", MISSING)
    zone = known_zone(landed_zone)
    return airports.select(
        parse("faa", "string", MISSING).alias("faa"),
        # The file escapes apostrophes: Martha\\'s Vineyard.
        F.regexp_replace(name, r"\\+'", "'").alias("name"),
        parse("lat", "double", MISSING).alias("lat"),
        parse("lon", "double", MISSING).alias("lon"),
        parse("alt", "int", MISSING).alias("alt_ft"),
        parse("tz", "double", MISSING).alias("utc_offset_h"),
        parse("dst", "string", MISSING).alias("dst"),
        zone.alias("tzone"),
        snapshot_date().alias("snapshot_date"),
        add_unparsed(unparsed(LANDED_TYPES, MISSING), tzone=landed_zone.isNotNull() & zone.isNull()),
        *ORIGIN_COLUMNS,
    )
