"""The lake that the settings describe, and the session that a run works on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lakehouse.catalog import Lake, Suites
from lakehouse.definitions import graph
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.spark.session import LazySession, spark_session
from lakehouse.settings import Settings
from lakehouse.storage.lock import note_jvm, run_lock

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# YARN sets it for a driver that it runs itself, and fails one that starts no session, or starts it late.
YARN_DRIVER: Final = "SPARK_YARN_STAGING_DIR"


def open_lake(settings: Settings) -> Lake:
    """The declared tables at the place that the settings name.

    Raises:
        DeclarationError: the declarations cannot be loaded or do not fit together.
    """
    suites = Suites(settings.conf / "expectations", settings.logs / "data_docs")
    return Lake(graph.load(settings.declarations), settings.root, suites)


@contextmanager
def session_for(settings: Settings, run: Run, log: Path | None) -> Iterator[LazySession]:
    """Hold the lake's lock, with a Spark session for this run that starts on first use."""
    with run_lock(settings.root, run.id, settings.lock_wait_seconds, run.hold):
        session = LazySession(lambda: _started(settings, run, log))
        try:
            if YARN_DRIVER in os.environ:
                session.get()
            yield session
        finally:
            session.stop()


@contextmanager
def _started(settings: Settings, run: Run, log: Path | None) -> Iterator[SparkSession]:
    with spark_session(settings, log) as spark:
        note_jvm(settings.root, run.id)
        yield spark
