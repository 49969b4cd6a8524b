"""The Spark engine: a session that starts when a step needs it, and a further session for each table's write."""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lakehouse.engine.spark import jdbc
from lakehouse.engine.spark.session import compose_properties, is_submitted, spark_session
from lakehouse.engine.spark.staging import stage_on_workers
from lakehouse.errors import CommitConflictError, SessionError, get_first_line
from lakehouse.landing.reader.staging import StagedBatch, stage_files
from lakehouse.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakehouse.definitions.sources import Source
    from lakehouse.deltalog.commit_record import Run
    from lakehouse.engine.spark.tables import SparkTables
    from lakehouse.landing.reader.task import StagingTask
    from lakehouse.landing.zone import LandingZone
    from lakehouse.storage.location import Location

T = TypeVar("T")
logger = logging.getLogger(__name__)
# Number of further attempts at a commit after a conflict, and the longest wait before each of them.
CONFLICT_RETRIES = 3
CONFLICT_SECONDS = 2.0


class SparkEngine:
    """`lakehouse.engine.base.Engine` on Spark. A run without work starts no JVM.

    The session starts in the thread that made this object. That is usually the main thread, which alone receives
    Ctrl-C. Other threads wait in `get_session` while that thread is in `wait`.
    """

    def __init__(self, start: Callable[[], AbstractContextManager[SparkSession]], master: str | None = "local") -> None:
        self._start = start
        self._master = master
        self._thread = threading.get_ident()
        self._requested: Future[None] = Future()
        self._session: Future[SparkSession] = Future()
        self._is_cancelled = threading.Event()
        self._exit = ExitStack()

    @classmethod
    def open(cls, settings: Settings, log: Path | None, on_start: Callable[[], None] | None) -> SparkEngine:
        """Return an engine with a session of its own. See `lakehouse.engine.open_engine`."""

        @contextmanager
        def start() -> Iterator[SparkSession]:
            with spark_session(settings, log) as spark:
                if on_start:
                    on_start()
                yield spark

        return cls(start, compose_properties(settings)["spark.master"])

    @classmethod
    def wrap_session(cls, spark: SparkSession) -> SparkEngine:
        """Wrap a running session. The caller stops it."""
        return cls(lambda: nullcontext(spark), None)

    @classmethod
    def get_running(cls) -> SparkEngine:
        """Wrap the process's session. See `lakehouse.engine.get_running_engine`."""
        from pyspark.sql import SparkSession

        return cls.wrap_session(SparkSession.builder.getOrCreate())

    def get_session(self) -> SparkSession:
        """Return the session. Start it on the first call.

        Raises:
            SessionError: Spark did not start, or the run was cancelled before.
        """
        if threading.get_ident() != self._thread:
            with suppress(InvalidStateError):  # requested already
                self._requested.set_result(None)
        elif not self._session.done():
            self._session.set_result(self._exit.enter_context(self._start()))
        return self._session.result()

    def start(self) -> None:
        self.get_session()

    def open_tables(self) -> SparkTables:
        from lakehouse.engine.spark.tables import SparkTables

        return SparkTables(self.get_session().newSession())

    def stage(self, task: StagingTask, folder: Path, table: Location | None) -> StagedBatch:
        """Stage in this process, as long as it does all of Spark's work; on a cluster by the workers."""
        if table is None or self._find_master().startswith("local"):
            return stage_files(task, folder, self._check_running)
        return stage_on_workers(self.get_session(), task, table)

    def _check_running(self) -> None:
        if self._is_cancelled.is_set():
            raise SessionError("The landed files were not read: the run was cancelled. Run again.")

    def _find_master(self) -> str:
        """Return Spark's master. Without spark-submit, whose arguments decide, no session starts for it."""
        if self._master is None or is_submitted():
            return str(self.get_session().conf.get("spark.master"))
        return self._master

    def extract(self, source: Source, landing: LandingZone, scratch: Location, run: Run) -> None:
        try:
            jdbc.extract(self.get_session(), source, landing, scratch, run)
        except Exception as error:
            raise jdbc.explain_error(source, error) or error from error

    def retry_on_conflict(self, table: str, attempt: Callable[[], T]) -> T:
        for _ in range(CONFLICT_RETRIES):
            try:
                return attempt()
            except Exception as error:
                if not _is_conflict(error):
                    raise
                logger.warning("%s: another writer committed first (%s). Deciding again.", table, get_first_line(error))
                time.sleep(random.uniform(0, CONFLICT_SECONDS))  # noqa: S311  # not a secret
        return attempt()

    def wait(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Wait until at least one future is done, and return the futures that are.

        Start the session if another thread requests it.

        Raises:
            SessionError: Spark did not start.
        """
        if not self._session.done():
            either: list[Future[Any]] = [*futures, self._requested]
            wait(either, return_when=FIRST_COMPLETED)
            if self._requested.done():
                self.get_session()
        return wait(futures, return_when=FIRST_COMPLETED).done

    def cancel(self) -> None:
        self._is_cancelled.set()
        if not self._session.done():
            self._session.set_exception(SessionError("Spark was not started: the run was cancelled. Run again."))
        elif self._session.exception() is None:
            self._session.result().sparkContext.cancelAllJobs()

    def stop(self) -> None:
        self._exit.close()


def _is_conflict(error: Exception) -> bool:
    """Return whether another writer committed first, by the error of either writer."""
    if isinstance(error, CommitConflictError):
        return True
    if "delta" not in sys.modules:  # no write of Spark
        return False
    from lakehouse.engine.spark.tables import CONFLICTS

    return isinstance(error, CONFLICTS)
