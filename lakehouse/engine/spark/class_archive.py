"""Java's archive of the classes that a session loads, with which later sessions start sooner (JEP 350).

    python -m lakehouse.engine.spark.class_archive

The first session of an installation starts this command when it ends. Java ignores an archive of another Java or
another Spark.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from lakehouse.engine.spark.session import (
    ARCHIVE,
    ARCHIVE_IS_SILENT,
    JVM_VARIABLES,
    NO_FOLDER,
    get_local_file_properties,
    read_properties,
)
from lakehouse.errors import SessionError
from lakehouse.resources import find_example, find_spark_file


def make_archive() -> None:
    """Make the archive by a session that does a little of each kind of work in a run.

    Raises:
        SessionError: The session failed, or this Java makes no archive.
    """
    ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ARCHIVE.parent) as folder:
        new = Path(folder, ARCHIVE.name)
        # Returns once the output is closed: the JVM writes the archive after Python ends.
        process = subprocess.run(
            [sys.executable, "-m", "lakehouse.engine.spark.class_archive", folder],
            cwd=find_example(),
            capture_output=True,
            text=True,
            check=False,
            env=_make_environment(find_spark_file("local.conf"), new),
        )
        if process.returncode or not new.exists():
            output = (process.stdout + process.stderr).strip().splitlines()[-20:]
            raise SessionError(
                "\n".join(["Spark's class archive was not made: sessions work without it, but start later.", *output])
            )
        new.replace(ARCHIVE)


def _make_environment(conf: Path, archive: Path) -> dict[str, str]:
    """Return an environment in which a session of the profile writes the archive when it ends."""
    java_options = read_properties(conf)["spark.driver.extraJavaOptions"]
    properties = {
        "spark.driver.extraJavaOptions": f'{java_options} "-XX:ArchiveClassesAtExit={archive}" {ARCHIVE_IS_SILENT}',
        **get_local_file_properties(),
    }
    options = [f"--conf={name}={value}" for name, value in properties.items()]
    arguments = shlex.join(["--properties-file", str(conf), *options, "pyspark-shell"])
    inherited = {name: value for name, value in os.environ.items() if name not in JVM_VARIABLES}
    return inherited | {"SPARK_CONF_DIR": NO_FOLDER, "PYSPARK_SUBMIT_ARGS": arguments}


def _run_sample_workload(folder: Path) -> None:
    """Land, read, window, join, write, merge and aggregate a few rows, to load the classes for this."""
    from delta.tables import DeltaTable
    from pyspark.sql import SparkSession, Window
    from pyspark.sql import functions as F

    spark = SparkSession.builder.getOrCreate()
    landed, table = str(folder / "landed"), str(folder / "table")
    spark.range(100).selectExpr("id", "id % 7 AS day", "concat('a', id) AS text").write.csv(landed, header=True)
    rows = spark.read.csv(landed, schema="id BIGINT, day INT, text STRING", header=True, mode="PERMISSIVE")
    latest = Window.partitionBy("day").orderBy(F.desc("id"))
    rows = (
        rows.withColumn("place", F.row_number().over(latest))
        .withColumn("before", F.lag("text").over(latest))
        .withColumn("at", F.to_timestamp(F.concat_ws(" ", F.lit("2013-01-01"), F.lit("10:00"))))
        .join(rows.groupBy("day").agg(F.count("*").alias("of")), "day", "left")
    )
    rows.write.format("delta").partitionBy("day").save(table)
    merged = (
        DeltaTable.forPath(spark, table)
        .alias("t")
        .merge(rows.where("place < 3").alias("s"), "t.id = s.id AND t.day = s.day")
    )
    merged.whenMatchedUpdateAll("t.text <> s.text").whenNotMatchedInsertAll().whenNotMatchedBySourceDelete(
        "t.id > 90"
    ).execute()
    rows.write.format("delta").mode("overwrite").option("replaceWhere", "day = 1").save(table + "2")
    spark.read.format("delta").load(table).groupBy("day").agg(
        F.sum("id"), F.expr("percentile_approx(id, 0.5)")
    ).toArrow()
    spark.stop()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _run_sample_workload(Path(sys.argv[1]))
    else:
        try:
            with FileLock(ARCHIVE.with_suffix(".lock"), timeout=0):
                make_archive()
        except Timeout:  # Another process makes it.
            pass
        except SessionError as error:
            print(error, file=sys.stderr)  # noqa: T201
