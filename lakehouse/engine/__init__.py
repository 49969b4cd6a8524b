"""Engines: what computes tables and writes them. The rooms above open one here and know only its protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakehouse.engine.base import Engine
    from lakehouse.settings import Settings


def open_engine(settings: Settings, log: Path | None = None, on_start: Callable[[], None] | None = None) -> Engine:
    """Return the engine that the settings name; whoever opens it stops it.

    Args:
        log: A file for what the engine's own process prints.
        on_start: Called once, after the engine has started.
    """
    from lakehouse.engine.spark.engine import SparkEngine

    return SparkEngine.open(settings, log, on_start)


def running_engine() -> Engine:
    """Return the engine that this process runs already; with none, one that starts with its defaults.

    It is not bound to the active session, which may belong to other code that sets it up for its own reads.
    """
    from lakehouse.engine.spark.engine import SparkEngine

    return SparkEngine.running()


def redirect_query_logs(handler: logging.Handler) -> None:
    """Send what an engine's Python client logs of failed queries to the handler alone."""
    from lakehouse.engine.spark.session import redirect_query_loggers

    redirect_query_loggers(handler)
