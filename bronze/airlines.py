"""Airlines: snapshots of the whole, `airlines_2013-01-01.csv`, named by the day they were taken."""

from lakehouse.definitions.sources import source

airlines = source("bronze.airlines", landing="airlines", columns=("carrier", "name"), stats=("_file_id",))
