"""Aircraft register: full snapshots, `planes_2013-01-01.csv`, named by their date."""

from lakehouse.definitions.sources import source

planes = source(
    "bronze.planes",
    landing="planes",
    columns=("tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "speed", "engine"),
    # A corrected snapshot with the same name is complete: aircraft that it omits were not registered that day.
    on_redelivery="replace",
    stats=("_file_id",),
)
