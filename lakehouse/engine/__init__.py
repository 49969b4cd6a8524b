"""Engines that compute and write tables. The packages above open an engine here and know only its protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakehouse.engine.base import Engine, FileWriter
    from lakehouse.settings import Settings


@contextmanager
def open_engine(
    settings: Settings, log: Path | None = None, on_start: Callable[[], None] | None = None
) -> Iterator[Engine]:
    """Yield the engine that the settings name, and stop it in the end. It starts on first use.

    Args:
        log: A file for the output of the engine's own process.
        on_start: Called once, after the engine has started.
    """
    from lakehouse.engine.spark.engine import SparkEngine

    engine = SparkEngine.open(settings, log, on_start)
    try:
        yield engine
    finally:
        engine.stop()


def open_file_writer() -> FileWriter:
    """Return the writer of Parquet files that are staged already. It needs no engine to start."""
    from lakehouse.engine.deltars.writer import DeltaRsWriter

    return DeltaRsWriter()


def get_running_engine() -> Engine:
    """Return the engine that this process already runs, or else an engine that starts with its defaults.

    It is not bound to the active session: that may belong to other code, which configures it for its own reads.
    """
    from lakehouse.engine.spark.engine import SparkEngine

    return SparkEngine.get_running()


def compose_spark_properties(settings: Settings) -> dict[str, str]:
    """Return the properties of a Spark session with these settings, for spark-submit. Their paths are absolute."""
    from lakehouse.engine.spark.session import compose_submit_properties

    return compose_submit_properties(settings)


def open_spark_session(settings: Settings, log: Path | None = None) -> AbstractContextManager[SparkSession]:
    """Open a Spark session, for work that needs Spark whatever the engine is."""
    from lakehouse.engine.spark.session import spark_session

    return spark_session(settings, log)


def redirect_query_logs(handler: logging.Handler) -> None:
    """Send the log of failed queries from an engine's Python client to the handler alone."""
    from lakehouse.engine.spark.session import redirect_query_loggers

    redirect_query_loggers(handler)
