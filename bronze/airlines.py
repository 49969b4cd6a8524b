"""Airlines: full snapshots, `airlines_2013-01-01.csv`, named by their date."""

from lakehouse.definitions.sources import source

airlines = source("bronze.airlines", landing="airlines", columns=("carrier", "name"), stats=("_file_id",))
