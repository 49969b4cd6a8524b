"""The log file of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from lakehouse.causes import describe_cause
from lakehouse.deltalog.commit_record import Run
from lakehouse.errors import LakehouseError, escape_controls
from lakehouse.extras import explain_missing_package
from lakehouse.settings import Settings

# The log of a server that runs for months must not fill the disk.
LOG_BYTES: Final = 100_000_000
LOG_FILES: Final = 5


class _LineFormatter(logging.Formatter):
    """Formatter that indents further lines: a name with a line end cannot look like another record."""

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).expandtabs(4).split("\n")
        return "\n    ".join(map(escape_controls, lines))


def start_log(settings: Settings, run: Run) -> Path:
    """Write the log of this process to a file of the run, and return the file."""
    from lakehouse.engine import redirect_query_logs

    settings.logs.mkdir(parents=True, exist_ok=True)
    file = settings.logs / f"{run.id}.log"
    handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.raiseExceptions = False  # A failed write, as on a full disk, must not fill the console.
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("py4j", "matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    redirect_query_logs(handler)
    logging.captureWarnings(True)
    return file


@contextmanager
def log_run(settings: Settings, run: Run) -> Iterator[Path]:
    """Yield the log file of a run. An error that ends the run names the file in a note; an unexpected error is logged.

    Raises:
        LakehouseError: replaces an unexpected error.
    """
    file = start_log(settings, run)
    try:
        yield file
    except LakehouseError as error:
        error.add_note(f"The log is {file}.")
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("run %s failed", run.id)
        missing = explain_missing_package(error)
        replacement = missing or LakehouseError(f"{type(error).__name__}: {describe_cause(error)}")
        replacement.add_note(f"The log is {file}.")
        raise replacement from error
