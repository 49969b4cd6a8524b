"""The lake that the settings describe, and the engine that a run works with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lakehouse.catalog import Lake, Suites
from lakehouse.definitions import graph
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine import open_engine
from lakehouse.engine.base import Engine
from lakehouse.settings import Settings
from lakehouse.storage.lock import lock_lake, record_jvms

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
def engine_for(settings: Settings, run: Run, log: Path | None) -> Iterator[Engine]:
    """Hold the lake's lock, with an engine for this run that starts on first use."""
    with lock_lake(settings.root, run.id, settings.lock_wait_seconds, run.lease):
        engine = open_engine(settings, log, lambda: record_jvms(settings.root, run.id))
        try:
            if YARN_DRIVER in os.environ:
                engine.start()
            yield engine
        finally:
            engine.stop()
