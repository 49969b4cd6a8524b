"""One plain PySpark script, tuned by hand, that builds the lake: no planning, ledger, quarantine or second run.

    python -m benchmarks.handwritten LANDING LAKE

It calls the table functions of silver/ and gold/ and the predicates of their rules: the tables are the project's. The
script itself reads, filters, deduplicates, keeps history, writes and orders the work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from pyspark.sql import DataFrame, Observation, SparkSession, Window
from pyspark.sql import functions as F

from bronze.airlines import airlines as landed_airlines
from bronze.airports import airports as landed_airports
from bronze.flights import flights as landed_flights
from bronze.planes import planes as landed_planes
from bronze.weather import weather as landed_weather
from gold.airport_daily import airport_daily
from gold.carrier_monthly import carrier_monthly
from gold.flight_features import flight_features
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Table
from silver.airlines import airlines
from silver.airports import airports
from silver.flights import flights
from silver.planes import planes
from silver.weather import weather

CONF = Path(__file__).resolve().parent.parent / "conf" / "spark"
PROPERTIES = CONF / "local.conf"
ORIGIN = ("_file_id", "_row")
# Landed bytes for each task and file of a bronze table; stored bytes for each task that reads Delta.
CHUNK_BYTES = 32 << 20
SPLIT_BYTES = "16m"
# More bytes than any landed file has: each file is then read as its own partition.
WHOLE_FILE = "1g"
ROW_BITS = (1 << 33) - 1


def start() -> SparkSession:
    os.environ.setdefault("SPARK_CONF_DIR", str(CONF))  # log4j2.properties
    builder = SparkSession.builder
    for line in PROPERTIES.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            builder = builder.config(*line.split(None, 1))
    spark = builder.getOrCreate()
    spark.conf.set("spark.sql.files.maxPartitionBytes", SPLIT_BYTES)
    return spark


class Script:
    """One build of a lake at ``lake`` from the CSV files below ``landing``."""

    def __init__(self, spark: SparkSession, landing: Path, lake: Path) -> None:
        self.spark, self.landing, self.lake = spark, landing, lake
        self.at = datetime.now(UTC)
        self.csv = spark.newSession()
        # By default the reader packs files together, which breaks `_row`, and starts a Spark job to list them.
        self.csv.conf.set("spark.sql.files.maxPartitionBytes", WHOLE_FILE)
        self.csv.conf.set("spark.sql.files.openCostInBytes", WHOLE_FILE)
        self.csv.conf.set("spark.sql.sources.parallelPartitionDiscovery.threshold", "1000000")
        # By default Spark 4.1 merges parts of one partition each into one task.
        self.csv.conf.set("spark.sql.unionOutputPartitioning", "false")

    def build(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            zones = pool.submit(self.build_small, landed_airports, airports)
            small = [
                pool.submit(self.build_small, landed_planes, planes),
                pool.submit(self.build_small, landed_weather, weather),
                pool.submit(self.build_small, landed_airlines, airlines),
            ]
            self.write(landed_flights.name, self.read_landed(landed_flights), ["_file_id"])
            zones.result()
            parsed = clean(flights, self.read(landed_flights.name), airports=self.read(airports.name))
            self.write(flights.name, parsed, ["flight_date", "sched_dep_utc", "dep_utc", "arr_utc"])
            self.deduplicate_flights()
            for future in small:
                future.result()
            gold = [pool.submit(self.build_gold, table) for table in (airport_daily, carrier_monthly)]
            self.build_gold(flight_features)
            for future in gold:
                future.result()

    # --- bronze -----------------------------------------------------------------------------------------------------

    def read_landed(self, source: Source) -> DataFrame:
        """Read a source's files in the order of their names, and add the landing columns."""
        files = sorted((self.landing / source.landing).iterdir())
        first, *others = [self.read_csv(source, chunk) for chunk in split_into_chunks(files)]
        rows = first
        for part in others:
            rows = rows.unionByName(part)
        names = [(file.name, i, f"{source.landing}/{file.name}") for i, file in enumerate(files, start=1)]
        origins = self.csv.createDataFrame(names, "_name string, _file_id bigint, _source_file string")
        return rows.join(F.broadcast(origins), "_name").select(
            *source.columns,
            "_malformed",
            "_file_id",
            "_row",
            "_source_file",
            F.lit(1).cast("bigint").alias("_batch_id"),
            F.lit(self.at).alias("_ingested_at"),
        )

    def read_csv(self, source: Source, files: Sequence[Path]) -> DataFrame:
        schema = ", ".join(f"`{column}` string" for column in (*source.columns, "_malformed"))
        reader = self.csv.read.schema(schema).options(header=True, escape='"', columnNameOfCorruptRecord="_malformed")
        # Spark keeps a parser for each file until the task ends. With the default buffers, twenty years do not fit.
        reader = reader.options(inputBufferSize=16384, multiLine=True)
        # The low bits of the id count the rows of a partition. Before `coalesce`, a partition is one file.
        row = F.monotonically_increasing_id().bitwiseAND(ROW_BITS) + 1
        numbered = reader.csv([str(file) for file in files]).select(
            "*", F.col("_metadata.file_name").alias("_name"), row.alias("_row")
        )
        return numbered.coalesce(1)

    # --- silver -----------------------------------------------------------------------------------------------------

    def build_small(self, source: Source, table: Table) -> None:
        """Write a small source's bronze and silver table, both from its files: faster than to read bronze again."""
        landed = self.read_landed(source)
        self.write(source.name, landed)
        rows = clean(table, landed)
        self.write(table.name, build_history(rows, table) if table is planes else keep_newest(rows, table))

    def deduplicate_flights(self) -> None:
        """Keep one row per flight; a search for duplicate keys is cheaper than to sort millions of rows without any."""
        written = self.read(flights.name)
        per_key = written.groupBy(F.xxhash64(*flights.key)).count()
        if not per_key.where("count > 1").isEmpty():
            self.write(
                flights.name, keep_newest(written, flights), ["flight_date", "sched_dep_utc", "dep_utc", "arr_utc"]
            )

    # --- gold -------------------------------------------------------------------------------------------------------

    def build_gold(self, table: Table) -> None:
        inputs = {parameter: self.read(source.table) for parameter, source in table.inputs.items()}
        self.write(table.name, table(**inputs), ["flight_date"] if "flight_date" in table.columns else [])

    # --- Delta ------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> DataFrame:
        return self.spark.read.format("delta").load(str(self.path(name)))

    def write(self, name: str, rows: DataFrame, stats: Iterable[str] = ()) -> None:
        writer = rows.write.format("delta").mode("overwrite").option("overwriteSchema", True)
        columns = ",".join(stats)
        option = ("delta.dataSkippingStatsColumns", columns) if columns else ("delta.dataSkippingNumIndexedCols", "0")
        writer.option(*option).save(str(self.path(name)))

    def path(self, name: str) -> Path:
        return self.lake.joinpath(*name.split("."))


def split_into_chunks(files: Sequence[Path]) -> list[list[Path]]:
    """Split files, in their order, into chunks of about the same size: at least one for each core."""
    sizes = [file.stat().st_size for file in files]
    count = min(len(files), max(os.cpu_count() or 1, -(-sum(sizes) // CHUNK_BYTES)))
    chunks: list[list[Path]] = [[] for _ in range(count)]
    done = 0
    for file, size in zip(files, sizes, strict=True):
        chunks[min(count - 1, done * count // max(1, sum(sizes)))].append(file)
        done += size
    return [chunk for chunk in chunks if chunk]


def clean(table: Table, landed: DataFrame, **lookups: DataFrame) -> DataFrame:
    """Return the table's rows without the rejected ones."""
    (parameter,) = (name for name, source in table.inputs.items() if source.table.startswith("bronze."))
    rows = table(**{parameter: landed.where("_malformed IS NULL")}, **lookups)
    good = [rule.predicate for rule in table.rules if rule.on_violation == "quarantine"]
    good += ["size(_unparsed) = 0"] if "_unparsed" in rows.columns else []
    good += [f"{column} IS NOT NULL" for column in table.key]
    # Spark cannot push the filter below `observe`. Otherwise it would compute the tested columns twice.
    observed = rows.observe(Observation(), F.count(F.lit(1)).alias("rows"))
    return observed.where(" AND ".join(f"({predicate})" for predicate in good)).select(*table.columns, *ORIGIN)


def keep_newest(rows: DataFrame, table: Table) -> DataFrame:
    """Keep one row per key: the last delivered row of the newest snapshot."""
    order = [F.desc(c) for c in ("snapshot_date", *ORIGIN) if c in rows.columns]
    ranked = rows.withColumn("_rank", F.row_number().over(Window.partitionBy(*table.key).orderBy(*order)))
    return ranked.where("_rank = 1").drop("_rank")


def build_history(rows: DataFrame, table: Table) -> DataFrame:
    """Return every version of each key; a snapshot that repeats the previous one adds none."""
    same_day = Window.partitionBy(*table.key, "snapshot_date").orderBy(*[F.desc(c) for c in ORIGIN])
    by_day = Window.partitionBy(*table.key).orderBy("snapshot_date")
    content = F.struct(*[c for c in table.columns if c not in (*table.key, "snapshot_date")])
    snapshots = rows.withColumn("_rank", F.row_number().over(same_day)).where("_rank = 1").drop("_rank")
    starts = snapshots.withColumn("_first", F.row_number().over(by_day) == 1).withColumn(
        "_before", F.lag(content).over(by_day)
    )
    changed = starts.where(F.col("_first") | ~F.col("_before").eqNullSafe(content)).drop("_first", "_before")
    return (
        changed.withColumn("valid_from", F.col("snapshot_date"))
        .withColumn("valid_to", F.lead("snapshot_date").over(by_day))
        .withColumn("is_current", F.col("valid_to").isNull())
    )


if __name__ == "__main__":
    session = start()
    try:
        Script(session, Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()).build()
    finally:
        session.stop()
