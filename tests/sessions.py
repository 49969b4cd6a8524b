"""The Spark session of the tests, and of the processes that they start."""

from __future__ import annotations

import os
import sys

from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

from lakehouse.engine.spark.session import add_jvm_jars, archive_options, local_file_properties, read_properties
from tests.paths import CONF, PROJECT

# Spark's own workers, too, run in the environment of the tests.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
SMALL = {
    "spark.sql.adaptive.enabled": "false",  # which makes a job of each stage; commands, which tests start as well, have it
    "spark.sql.shuffle.partitions": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.driver.extraJavaOptions": f"{archive_options()} -XX:+UseSerialGC",  # several such processes share two cores
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.ui.explainMode": "simple",  # nobody looks at the plans that Spark describes for its page
    **local_file_properties(),
}


def small_session(*, compiled: bool = False) -> SparkSession:
    """A local session for small tables: to interpret a query of ten rows is quicker than to compile it, as Spark does."""
    builder = (
        SparkSession.builder.config(map=SMALL)
        .master("local[2]")
        .appName("tests")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        .config("spark.sql.sources.parallelPartitionDiscovery.parallelism", "2")  # a vacuum lists with so many tasks
        # A collector that does nothing in between: what goes on beside the tests takes from their two cores.
        .config("spark.driver.extraJavaOptions", f"{archive_options()} -XX:+UseParallelGC")
        .config("spark.sql.codegen.wholeStage", str(compiled).lower())
        .config("spark.sql.codegen.factoryMode", "CODEGEN_ONLY" if compiled else "NO_CODEGEN")
        .config("spark.driver.memory", "3g")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    return configure_spark_with_delta_pip(builder, ["org.postgresql:postgresql:42.7.8"]).getOrCreate()


def small_s3_session(**others: str) -> SparkSession:
    """A session of the profile minio for small tables; the environment says where the store is."""
    settings = read_properties(CONF / "spark" / "minio.conf") | SMALL | others
    settings |= {"spark.master": "local[2]", "spark.driver.memory": "700m"}
    add_jvm_jars(settings.pop("spark.jars"), PROJECT)
    builder = SparkSession.builder
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


if __name__ == "__main__":  # fetch every jar once, before processes side by side would: Ivy does not lock its cache
    small_s3_session().stop()
