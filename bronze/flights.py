"""Departures from New York: one CSV a day, `flights_2013-01-01.csv`, named by the local date of departure.

NA marks a missing value. Dates and clocks are local (517 is 5:17). `time_hour` is the scheduled hour in UTC.
"""

from lakehouse.definitions.sources import source

flights = source(
    "bronze.flights",
    landing="flights",
    columns=(
        "year",
        "month",
        "day",
        "dep_time",
        "sched_dep_time",
        "dep_delay",
        "arr_time",
        "sched_arr_time",
        "arr_delay",
        "carrier",
        "flight",
        "tailnum",
        "origin",
        "dest",
        "air_time",
        "distance",
        "hour",
        "minute",
        "time_hour",
    ),
    stats=("_file_id",),
)
