"""A lake of the flights example for one measurement, built from landed files by the platform."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.env import PROJECT
from lakehouse.catalog import Catalog, Suites
from lakehouse.definitions import graph
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.plan.steps import RunRequest
from lakehouse.runs.context import create_run
from lakehouse.runs.report import RunReport
from lakehouse.runs.scheduler import run_tables
from lakehouse.storage import location

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def build_lake(
    spark: SparkSession, root: Path, flights: Mapping[str, bytes], airports: Mapping[str, bytes]
) -> tuple[Catalog, RunReport]:
    """Land the files in an empty lake, and build silver.flights and its inputs."""
    shutil.rmtree(root, ignore_errors=True)
    for source, files in (("flights", flights), ("airports", airports)):
        for name, content in files.items():
            location.put_if_changed(root / "landing" / source / name, content)
    lake = Catalog(
        graph.load(["bronze", "silver"]), root, Suites(PROJECT / "conf" / "expectations", root / "data_docs")
    )
    return lake, run_tables(
        SparkEngine.wrap_session(spark),
        lake,
        lake.graph.select(("+silver.flights",)),
        RunRequest(),
        create_run(PROJECT),
        parallel=2,
    )
