"""Weather with parsed values, times in UTC and units in the names."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from flights.clock import confirm_utc, date_of, to_wall_time
from flights.keys import MISSING, ORIGINS, add_unparsed, is_lost
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS
from lakehouse.definitions.tables import UNPARSED, table
from lakehouse.definitions.write_modes import Merge
from lakehouse.spark import parse, unparsed

MEASURES = {
    "temp": "temp_f",
    "dewp": "dewp_f",
    "humid": "humid_pct",
    "wind_dir": "wind_dir_deg",
    "wind_speed": "wind_speed_mph",
    "wind_gust": "wind_gust_mph",
    "precip": "precip_in",
    "pressure": "pressure_mb",
    "visib": "visib_mi",
}
DATE_PARTS = ("year", "month", "day")
LANDED_TYPES = {
    "time_hour": "timestamp",
    **dict.fromkeys((*DATE_PARTS, "hour"), "int"),
    **dict.fromkeys(MEASURES, "double"),
}
RULES = (
    Rule("origin_is_new_york", f"origin IN {ORIGINS}"),
    Rule("temperature_is_plausible", "temp_f IS NULL OR temp_f BETWEEN -60 AND 140"),
    Rule("dew_point_is_plausible", "dewp_f IS NULL OR dewp_f BETWEEN -90 AND 100"),
    Rule("humidity_is_a_percentage", "humid_pct IS NULL OR humid_pct BETWEEN 0 AND 100"),
    Rule("wind_direction_is_an_angle", "wind_dir_deg IS NULL OR wind_dir_deg BETWEEN 0 AND 360"),
    Rule("precipitation_is_plausible", "precip_in IS NULL OR precip_in BETWEEN 0 AND 15"),
    Rule("pressure_is_plausible", "pressure_mb IS NULL OR pressure_mb BETWEEN 870 AND 1090"),
    Rule("visibility_is_plausible", "visib_mi IS NULL OR visib_mi BETWEEN 0 AND 100"),
    # The strongest gust on record is 253 mph. A warning, because the hour's other values are valid.
    Rule("wind_speed_is_plausible", "wind_speed_mph IS NULL OR wind_speed_mph BETWEEN 0 AND 253", "warn"),
    Rule("wind_gust_is_plausible", "wind_gust_mph IS NULL OR wind_gust_mph BETWEEN 0 AND 253", "warn"),
)


@table(
    "silver.weather",
    columns={
        "origin": "string",
        "observed_at": "timestamp",
        "weather_date": "date",
        **dict.fromkeys(MEASURES.values(), "double"),
    },
    write=Merge(),
    key=("origin", "observed_at"),
    rules=RULES,
    weather="bronze.weather",
)
def weather(weather: DataFrame) -> DataFrame:
    """One row per airport and hour of observation.

    `weather_date` is the local date. A `time_hour` that contradicts the local date and hour counts as unparsed.
    """
    return _with_observation_time(_parse_weather(weather)).select(
        "origin",
        "observed_at",
        "weather_date",
        *MEASURES.values(),
        add_unparsed(
            F.col(UNPARSED),
            day=is_lost("weather_date", "_year", "_month", "_day"),
            hour=is_lost("_wall_hour", "weather_date", "_hour"),
            time_hour=is_lost("observed_at", "_time_hour", "_wall_hour"),
        ),
        *ORIGIN_COLUMNS,
    )


# Each step is a separate projection, because Spark would repeat its expression at each use in the next step.
def _parse_weather(weather: DataFrame) -> DataFrame:
    """Parse the landed values. Inputs of the time of observation have names with an underscore."""
    return weather.select(
        parse("origin", "string", MISSING).alias("origin"),
        date_of(*DATE_PARTS).alias("weather_date"),
        *[parse(landed, "double", MISSING).alias(measure) for landed, measure in MEASURES.items()],
        *[parse(name, "int", MISSING).alias(f"_{name}") for name in (*DATE_PARTS, "hour")],
        parse("time_hour", "timestamp", MISSING).alias("_time_hour"),
        unparsed(LANDED_TYPES, MISSING),
        *ORIGIN_COLUMNS,
    )


def _with_observation_time(weather: DataFrame) -> DataFrame:
    """Add the time of observation in UTC."""
    clock = F.col("_hour").cast("bigint") * 100
    return weather.withColumn("_wall_hour", to_wall_time(F.col("weather_date"), clock)).withColumn(
        "observed_at", confirm_utc(F.col("_time_hour"), F.col("_wall_hour"))
    )
