"""The example's airlines and planes kept in PostgreSQL: airlines by a cursor, planes as snapshots."""

from __future__ import annotations

import psycopg

from flights.delivery import _package_data
from lakehouse.definitions.sources import Database, source

URL = "jdbc:postgresql://${PGHOST}:${PGPORT}/sources"
AIRLINES = ("carrier", "name")
PLANES = ("tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "speed", "engine")

airlines = source(
    "bronze.airlines", landing="airlines", format="parquet",
    columns={**dict.fromkeys(AIRLINES, "string"), "changed": "bigint", "founded_at": "timestamp"},
    database=Database(URL, "airlines", key=("changed",), cursor="changed"),
)  # fmt: skip
planes = source(
    "bronze.planes", landing="planes", columns=PLANES, format="parquet", relanded="replace",
    database=Database(URL, "planes", key=("tailnum",)),
)  # fmt: skip


def fill(connection: psycopg.Connection) -> None:
    """Make both tables, with the package's rows."""
    connection.execute("DROP TABLE IF EXISTS airlines, planes")
    for name, columns in (("airlines", AIRLINES), ("planes", PLANES)):
        connection.execute(f"CREATE TABLE {name} ({', '.join(f'{c} text' for c in columns)})")
        with connection.cursor().copy(f"COPY {name} FROM STDIN (FORMAT csv, HEADER, NULL 'NA')") as copy:
            copy.write((_package_data() / f"{name}.csv").read_bytes())
    # In an hour that clocks in most of Europe skip.
    connection.execute(
        "ALTER TABLE airlines ADD changed bigserial, ADD founded_at timestamp DEFAULT '2013-03-31 02:30'"
    )
