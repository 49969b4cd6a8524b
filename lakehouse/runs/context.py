"""A run, the lake that it works on, and its engine."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from lakehouse.catalog import Catalog, Suites
from lakehouse.definitions import graph
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine import open_engine
from lakehouse.engine.base import Engine
from lakehouse.landing.reader.compression import UnpackLimits
from lakehouse.settings import Settings
from lakehouse.storage.location import list_names
from lakehouse.storage.lock import lock_lake, record_jvms

# YARN sets this variable for a Spark driver in its cluster. A driver without an early session fails there.
YARN_DRIVER: Final = "SPARK_YARN_STAGING_DIR"
_ID_TIME: Final = "%Y%m%dT%H%M%S"
_RUN_LOG: Final = re.compile(r"(\d{8}T\d{6})-[0-9a-f]{6}\.log")


def open_catalog(settings: Settings) -> Catalog:
    """Open the lake of the settings with its declared tables.

    Raises:
        DeclarationError: the declarations cannot be loaded, or contradict each other.
    """
    return _make_catalog(settings, graph.load(settings.declarations))


def examine_catalog(settings: Settings) -> tuple[Catalog, list[str]]:
    """Return the lake with the declarations that can be loaded, and the problems of all declarations.

    Where there are problems, the catalog is fit only for further checks.
    """
    declared, problems = graph.examine(settings.declarations)
    return _make_catalog(settings, declared), problems


def _make_catalog(settings: Settings, declared: graph.Graph) -> Catalog:
    suites = Suites(settings.conf / "expectations", settings.logs / "data_docs")
    limits = UnpackLimits(settings.max_unpacked_bytes, settings.max_unpacked_ratio)
    return Catalog(declared, settings.root, suites, limits)


def create_run(project: Path, logs: Path | None = None) -> Run:
    """Create a run with an id that sorts by time (UTC), and the revision of the project's code.

    Args:
        logs: The folder with the logs of earlier runs. The id sorts after theirs, even if the clock was set back.
    """
    moment = datetime.now(UTC).replace(tzinfo=None)
    if logs:
        moment = max(moment, _find_next_moment(logs))
    return Run(f"{moment:{_ID_TIME}}-{secrets.token_hex(3)}", get_revision(project))


def _find_next_moment(logs: Path) -> datetime:
    """Return the second after the time in the last run's id. Other names of files do not count."""
    matches = (_RUN_LOG.fullmatch(name) for name in list_names(logs))
    for text in sorted((match[1] for match in matches if match), reverse=True):
        with suppress(ValueError, OverflowError):
            return datetime.strptime(text, _ID_TIME) + timedelta(seconds=1)
    return datetime.min


def get_revision(project: Path) -> str:
    """Return the commit of the project's working tree, marked if files differ from it. Empty without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


@contextmanager
def open_locked_engine(settings: Settings, run: Run, log: Path | None) -> Iterator[Engine]:
    """Lock the lake and yield an engine for this run. The engine starts on first use."""
    with (
        lock_lake(settings.root, run.id, settings.lock_wait_seconds, run.lease),
        open_engine(settings, log, lambda: record_jvms(settings.root, run.id)) as engine,
    ):
        if YARN_DRIVER in os.environ:
            engine.start()
        yield engine
