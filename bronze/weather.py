"""Hourly weather at the New York airports: one CSV a month, `weather_2013-01.csv`, named by the local month.

NA marks a missing value. Units are US customary. `time_hour` is the hour of observation in UTC.
"""

from lakehouse.definitions.sources import source

weather = source(
    "bronze.weather",
    landing="weather",
    columns=(
        "origin",
        "year",
        "month",
        "day",
        "hour",
        "temp",
        "dewp",
        "humid",
        "wind_dir",
        "wind_speed",
        "wind_gust",
        "precip",
        "pressure",
        "visib",
        "time_hour",
    ),
    stats=("_file_id",),
)
