"""The Spark session of the tests and of their processes."""

from __future__ import annotations

import os
import sys

from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

from lakehouse.engine.spark.class_archive import make_archive
from lakehouse.engine.spark.session import (
    ARCHIVE,
    add_jvm_jars,
    get_archive_options,
    get_local_file_properties,
    read_properties,
)
from tests.paths import CONF, PROJECT

# Spark's workers run in the environment of the tests, too.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
SMALL = {
    "spark.sql.adaptive.enabled": "false",  # it makes a job of each stage; the commands under test enable it
    "spark.sql.shuffle.partitions": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.driver.extraJavaOptions": f"{get_archive_options()} -XX:+UseSerialGC",  # several JVMs share two cores
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.ui.explainMode": "simple",  # the tests do not use the plans of Spark's web page
    **get_local_file_properties(),
}


def small_session(*, compiled: bool = False) -> SparkSession:
    """Start a local session for small tables.

    Args:
        compiled: Compile queries. For ten rows it is faster to interpret them.
    """
    builder = (
        SparkSession.builder.config(map=SMALL)
        .master("local[2]")
        .appName("tests")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config(
            "spark.sql.sources.parallelPartitionDiscovery.parallelism", "2"
        )  # the number of tasks that list files for a vacuum
        # This collector does no work in the background, because that slows down tests on two cores.
        .config("spark.driver.extraJavaOptions", f"{get_archive_options()} -XX:+UseParallelGC")
        .config("spark.sql.codegen.wholeStage", str(compiled).lower())
        .config("spark.sql.codegen.factoryMode", "CODEGEN_ONLY" if compiled else "NO_CODEGEN")
        .config("spark.driver.memory", "3g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    return configure_spark_with_delta_pip(builder, ["org.postgresql:postgresql:42.7.8"]).getOrCreate()


def small_s3_session(**others: str) -> SparkSession:
    """Start a session of the profile minio for small tables. The environment has the address of the store."""
    settings = read_properties(CONF / "spark" / "minio.conf") | SMALL | others
    settings |= {"spark.master": "local[2]", "spark.driver.memory": "700m"}
    add_jvm_jars(str(PROJECT / settings.pop("spark.jars")))
    builder = SparkSession.builder
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


if __name__ == "__main__":  # fetch every jar once, before parallel processes do: Ivy does not lock its cache
    small_s3_session().stop()
    if not ARCHIVE.exists():
        make_archive()
