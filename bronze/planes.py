"""The aircraft register: snapshots of the whole, `planes_2013-01-01.csv`, named by the day they were taken."""

from lakehouse.definitions.sources import source

planes = source(
    "bronze.planes",
    landing="planes",
    columns=("tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "speed", "engine"),
    # A snapshot corrected under its name is the whole of what was there that day: what it leaves out was not.
    on_redelivery="replace",
    stats=("_file_id",),
)
