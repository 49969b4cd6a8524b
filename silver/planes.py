"""Aircraft with their history."""

from __future__ import annotations

from pyspark.sql import DataFrame

from flights.clock import snapshot_date
from flights.keys import MISSING
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import History
from lakehouse.spark import parse, unparsed

LANDED_TYPES = dict.fromkeys(("year", "engines", "seats", "speed"), "int")


@table(
    "silver.planes",
    columns={
        "tailnum": "string",
        "year_built": "int",
        "type": "string",
        "manufacturer": "string",
        "model": "string",
        "engines": "int",
        "seats": "int",
        "speed_mph": "int",
        "engine": "string",
        "snapshot_date": "date",
    },
    write=History(effective_column="snapshot_date", has_snapshots=True),
    key=("tailnum",),
    rules=(
        Rule("snapshot_is_dated", "snapshot_date IS NOT NULL"),
        Rule("engines_are_plausible", "engines IS NULL OR engines BETWEEN 1 AND 12"),
        Rule("seats_are_plausible", "seats IS NULL OR seats BETWEEN 1 AND 900"),
        Rule("speed_is_plausible", "speed_mph IS NULL OR speed_mph BETWEEN 1 AND 1500", "warn"),
        # A manufacturer's model year may be one year ahead of the calendar.
        Rule(
            "build_year_is_plausible",
            "year_built IS NULL OR year_built BETWEEN 1903 AND year(snapshot_date) + 1",
            "warn",
        ),
    ),
    planes="bronze.planes",
)
def planes(planes: DataFrame) -> DataFrame:
    """One row per aircraft and period without a change in the register."""
    return planes.select(
        parse("tailnum", "string", MISSING).alias("tailnum"),
        parse("year", "int", MISSING).alias("year_built"),
        parse("type", "string", MISSING).alias("type"),
        parse("manufacturer", "string", MISSING).alias("manufacturer"),
        parse("model", "string", MISSING).alias("model"),
        parse("engines", "int", MISSING).alias("engines"),
        parse("seats", "int", MISSING).alias("seats"),
        parse("speed", "int", MISSING).alias("speed_mph"),
        parse("engine", "string", MISSING).alias("engine"),
        snapshot_date().alias("snapshot_date"),
        unparsed(LANDED_TYPES, MISSING),
        *ORIGIN_COLUMNS,
    )
