"""What commands and jobs do: the lake that the settings describe, and a run on it."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from lakehouse import graph as graphs
from lakehouse import lineage, rejects
from lakehouse.declare import Replace, Table
from lakehouse.errors import DeclarationError, LakehouseError, ModelError, SettingsError, UndoError, first_line
from lakehouse.features import Model, Task
from lakehouse.ledger import Run
from lakehouse.lock import note_jvm, run_lock
from lakehouse.plan import Lake, Request
from lakehouse.run import Report, Watcher, new_run, run_tables
from lakehouse.session import LazySession, spark_session
from lakehouse.settings import CONF, Settings
from lakehouse.suites import Suites

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakehouse.gpu_report import TableReport
    from lakehouse.replay import Replayed
    from lakehouse.undo import Undo


# A server that runs for months must not fill the disk.
LOG_BYTES: Final = 100_000_000
LOG_FILES: Final = 5
# YARN sets it for a driver that it runs itself, and fails one that starts no session, or starts it late.
YARN_DRIVER: Final = "SPARK_YARN_STAGING_DIR"


def open_lake(settings: Settings) -> Lake:
    """The declared tables at the place that the settings name.

    Raises:
        DeclarationError: the declarations cannot be loaded or do not fit together.
    """
    suites = Suites(CONF / "expectations", settings.logs / "data_docs")
    return Lake(graphs.load(settings.declarations), settings.root, suites)


def log_to(settings: Settings, run: Run) -> Path:
    """Send this process's log to a file of its own; returns the file."""
    from pyspark.logger import PySparkLogger

    settings.logs.mkdir(parents=True, exist_ok=True)
    file = settings.logs / f"{run.id}.log"
    handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, is no reason to fill the console
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("py4j", "matplotlib", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Spark logs a query's error once more, as JSON, to the console, before it raises it.
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        queries = PySparkLogger.getLogger(name)
        queries.handlers, queries.propagate = [handler], False
    logging.captureWarnings(True)
    return file


@contextmanager
def logged(settings: Settings, run: Run) -> Iterator[Path]:
    """The run's log file; an error that ends the run meanwhile names it, and one that nobody expected is kept in it.

    Raises:
        LakehouseError: in place of an error that is none of the project's.
    """
    file = log_to(settings, run)
    try:
        yield file
    except LakehouseError as error:
        error.add_note(f"The log is {file}.")
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("run %s failed", run.id)
        said = LakehouseError(f"{type(error).__name__}: {first_line(error)}")
        said.add_note(f"The log is {file}.")
        raise said from error


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


def run_pipeline(
    settings: Settings, selectors: Iterable[str] = (), request: Request | None = None, watcher: Watcher | None = None,
    run: Run | None = None, log: Path | None = None,
) -> Report:  # fmt: skip
    """Bring the selected tables up to date, under the lake's lock, on a session of its own."""
    lake = open_lake(settings)
    names = lake.graph.select(tuple(selectors))
    run = run or new_run()
    with session_for(settings, run, log) as session:
        traced = lineage.traced(settings, lake, run, watcher)
        return run_tables(session, lake, names, request or Request(), run, settings.parallel_tables, traced)


def gpu_report(settings: Settings, selectors: Iterable[str], log: Path | None) -> list[TableReport]:
    """What of the selected tables' plans would run on a GPU, on a session of its own."""
    from lakehouse.gpu_report import report

    lake = open_lake(settings).still()
    with spark_session(settings.model_copy(update={"gpu": "explain"}), log) as spark:
        return report(spark, lake, lake.graph.select(tuple(selectors)))


def replay(settings: Settings, table: str, run: Run, log: Path | None, dry: bool) -> Replayed:
    """Replay a table's rejects, under the lake's lock, on a session of its own."""
    from lakehouse import delta
    from lakehouse.replay import Replayed, replay

    lake = open_lake(settings)
    if not rejects.waiting(lake, table):  # no JVM to say so
        return Replayed(table)
    with session_for(settings, run, log) as session:
        return delta.after_conflicts(table, lambda: replay(session, lake, table, run, dry=dry))


def undo(settings: Settings, agreed: Undo, run: Run, log: Path | None) -> None:
    """Take back a run as planned, under the lake's lock, on a session of its own.

    Raises:
        UndoError: the lake is not as it was planned for.
    """
    from lakehouse.restoring import take_back
    from lakehouse.undo import plan_undo

    lake = open_lake(settings)
    with session_for(settings, run, log) as session:
        if plan_undo(lake, agreed.run).tables != agreed.tables:
            raise UndoError("The lake was written meanwhile, so nothing was touched: see again what would go back.")
        take_back(session.get(), lake, agreed, run)


def make_request(lake: Lake, names: tuple[str, ...], full_refresh: bool, since: Any, until: Any) -> Request:
    """What the user asked of a run.

    Raises:
        DeclarationError: a range of dates was asked for, but is not whole, ends before it begins, or none of the selected tables
            is replaced by partition.
    """
    if (since is None) != (until is None):
        raise DeclarationError("A range needs both --from and --to.")
    if since is not None and since > until:
        raise DeclarationError(f"--from {since} is after --to {until}.")
    declared = (lake.graph.declared[name] for name in names)
    if since is not None and not any(isinstance(t, Table) and isinstance(t.write, Replace) for t in declared):
        raise DeclarationError(
            "--from and --to recompute tables replaced by partition; none of the selected tables is."
        )
    return Request(frozenset(names) if full_refresh else frozenset(), since, until)


def load_models(settings: Settings) -> dict[str, Model]:
    """The modules of the declared models, by name.

    Raises:
        SettingsError: one cannot be imported, lacks what a model needs, or means something else by a task than another does.
    """
    found = {name: _load_model(name, module) for name, module in settings.models.items()}
    tasks: dict[str, tuple[str, Task]] = {}
    for name, model in found.items():
        first, task = tasks.setdefault(model.TASK.name, (name, model.TASK))
        if task != model.TASK:
            raise SettingsError(f"The models {first} and {name} mean different things by the task {task.name!r}.")
    return found


def _load_model(name: str, module: str) -> Model:
    try:
        model: Any = importlib.import_module(module)
    except Exception as error:  # whatever a mistake in its module raises
        said = f"{type(error).__name__}: {error}"
        raise SettingsError(f"The model {name} cannot be loaded from {module}: {said}") from error
    needed = [one for one in dir(Model) if not one.startswith("_")]
    if lacking := [one for one in needed if not hasattr(model, one)]:
        raise SettingsError(f"The model {name} ({module}) lacks {', '.join(lacking)}.")
    return cast("Model", model)


def choose_model(models: Mapping[str, Model], name: str | None) -> str:
    """The name of a declared model; the first one's, without a name.

    Raises:
        ModelError: no model has that name.
    """
    name = name or next(iter(models), "")
    if name not in models:
        raise ModelError(f"No model is called {name!r}; known are {', '.join(models) or 'none'} (conf/base.yml).")
    return name


def choose_task(models: Mapping[str, Model], name: str | None) -> Task:
    """The task of that name; the first model's, without a name.

    Raises:
        ModelError: no model learns a task of that name.
    """
    tasks = {model.TASK.name: model.TASK for model in models.values()}
    name = name or next(iter(tasks), "")
    if name not in tasks:
        raise ModelError(f"No model learns {name!r}; what is learned: {', '.join(tasks) or 'nothing'} (conf/base.yml).")
    return tasks[name]
