"""Airports: full snapshots, `airports_2013-01-01.csv`, named by their date.

Four destinations in Puerto Rico and the Virgin Islands are missing.
"""

from lakehouse.definitions.sources import source

airports = source(
    "bronze.airports",
    landing="airports",
    columns=("faa", "name", "lat", "lon", "alt", "tz", "dst", "tzone"),
    stats=("_file_id",),
)
