"""The same tables with polars and delta-rs: a short script for data that fits a laptop.

    python -m benchmarks.polars_reference LANDING LAKE

Everything stays in memory. A file with other columns ends the run, and rejected rows are dropped. The script imports
neither Spark nor the project.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from deltalake import write_deltalake

from benchmarks.polars_features import flight_features
from benchmarks.polars_silver import airlines, airports, flights, planes, weather

ORIGIN = ("_file_id", "_row")
LATE_MINUTES = 15


class Script:
    """One build of a lake from the CSV files below ``landing``; Delta tables are written while polars continues."""

    def __init__(self, landing: Path, lake: Path, pool: ThreadPoolExecutor) -> None:
        self.landing, self.lake, self.pool = landing, lake, pool
        self.at = datetime.now(UTC)
        self.writes: list[Future[None]] = []

    def build(self) -> None:
        bronze = {name: self.read_landed(name) for name in ("airports", "planes", "airlines", "weather", "flights")}
        for name, rows in bronze.items():
            self.write(f"bronze/{name}", rows)
        airports_, weather_ = airports(bronze.pop("airports")), weather(bronze.pop("weather"))
        planes_ = planes(bronze.pop("planes"))
        flights_ = flights(bronze.pop("flights"), airports_)
        self.write("silver/airports", airports_)
        self.write("silver/airlines", airlines(bronze.pop("airlines")))
        self.write("silver/planes", planes_)
        self.write("silver/weather", weather_)
        self.write("silver/flights", flights_)
        self.write("gold/airport_daily", airport_daily(flights_))
        self.write("gold/carrier_monthly", carrier_monthly(flights_))
        self.write("gold/flight_features", flight_features(flights_, weather_, planes_))
        for future in self.writes:
            future.result()

    def read_landed(self, name: str) -> pl.DataFrame:
        """Read a source's files in the order of their names, and add the landing columns."""
        files = sorted((self.landing / name).iterdir())
        with files[0].open(encoding="utf-8") as first:
            columns = first.readline().strip().split(",")
        origins = {
            "_path": [str(file) for file in files],
            "_file_id": range(1, len(files) + 1),
            "_source_file": [f"{name}/{file.name}" for file in files],
        }
        rows = pl.scan_csv(files, schema=dict.fromkeys(columns, pl.String), include_file_paths="_path")
        return (
            rows.join(pl.LazyFrame(origins), on="_path", how="left", maintain_order="left")
            .with_columns(_row=pl.int_range(1, pl.len() + 1).over("_file_id"))
            .select(
                *columns,
                pl.lit(None, pl.String).alias("_malformed"),
                *ORIGIN,
                "_source_file",
                pl.lit(1, pl.Int64).alias("_batch_id"),
                pl.lit(self.at).alias("_ingested_at"),
            )
            .collect()
        )

    def write(self, name: str, rows: pl.DataFrame) -> None:
        self.writes.append(self.pool.submit(write_deltalake, self.lake / name, rows, mode="overwrite"))


def airport_daily(flights: pl.DataFrame) -> pl.DataFrame:
    return flights.group_by("flight_date", "origin").agg(
        *counts(), avg("dep_delay_min"), avg("arr_delay_min"), late_rate()
    )


def carrier_monthly(flights: pl.DataFrame) -> pl.DataFrame:
    month = pl.col("flight_date").dt.truncate("1mo").alias("month")
    return flights.group_by("carrier", month).agg(*counts(), avg("arr_delay_min"), late_rate())


def counts() -> tuple[pl.Expr, pl.Expr]:
    return pl.len().cast(pl.Int64).alias("flights"), pl.col("cancelled").sum().cast(pl.Int64)


def avg(column: str) -> pl.Expr:
    return pl.col(column).mean().alias(f"avg_{column}")


def late_rate() -> pl.Expr:
    return (pl.col("arr_delay_min") >= LATE_MINUTES).mean().alias("late_rate")


if __name__ == "__main__":
    with ThreadPoolExecutor(1) as writer:
        Script(Path(sys.argv[1]), Path(sys.argv[2]), writer).build()
