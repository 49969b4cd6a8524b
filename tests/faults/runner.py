"""Runs of a lake in separate processes on the JVM of the tests, which are killed or stopped at a commit.

Python waits for each of its commits. So a process that dies between two commits leaves the same lake, whether or not
its JVM dies with it. A JVM for each run would take ten times as long. Processes that die in the middle of a write take
their JVM with them: see driver.py.

Each run is a fork of this process, because some imports are slow. Orders and answers are lines of JSON.
`tests.faults.processes` is the other end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.deltars.writer import DeltaRsWriter
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.engine.spark.tables import SparkTables
from lakehouse.plan.steps import RunRequest
from lakehouse.runs.scheduler import run_tables
from lakehouse.storage import location
from lakehouse.storage.lock import lock_lake
from tests.faults.processes import Answer, Order

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Watch:
    """Wrapper of every commit. It reports the commit, and strikes the process at the commit of the order."""

    def __init__(self, order: Order, report: Callable[[str], None]) -> None:
        self.order, self.report, self.commits_to_skip = order, report, order.skip

    def commit(self, name: str, call: Callable[[], Any]) -> Any:
        self.report(name)
        if self.order.when == "before":
            self.strike(name)
        result = call()  # A call without a commit raises, such as a first attempt that meets a bad row.
        if self.order.when == "after":
            self.strike(name)
        return result

    def strike(self, name: str) -> None:
        if self.order.strike and name not in self.order.passed:
            self.commits_to_skip -= 1
            if self.commits_to_skip == -1:
                # A stop of the process by another thread would let this thread go on for a moment, into the commit.
                signal.pthread_kill(threading.get_ident(), SIGNALS[self.order.strike])

    def wrap_all(self) -> None:
        """Wrap the creation of manifests, and every write of a table or its quarantine."""
        self._wrap(SparkTables, "_write", lambda tables, rows, target, *_: target.name)
        self._wrap(SparkTables, "merge", lambda tables, rows, target, *_: target.name)
        for method in ("append", "overwrite", "replace"):
            self._wrap(DeltaRsWriter, method, lambda writer, parts, schema, target, *_: target.name)
        self._wrap(location, "create", lambda file, _: f"the manifest of {file.parent.name}")

    def _wrap(self, module: Any, name: str, get_commit_name: Callable[..., str]) -> None:
        original = getattr(module, name)

        def write(*args: Any, **options: Any) -> Any:
            return self.commit(get_commit_name(*args), lambda: original(*args, **options))

        setattr(module, name, write)


def attach_session() -> SparkSession:
    """Return the session of the JVM that the environment names, with empty caches as in a new JVM."""
    gateway = launch_gateway()
    jvm = gateway.jvm
    session = jvm.SparkSession.getDefaultSession().get()
    context = jvm.JavaSparkContext(session.sparkContext())
    conf = SparkConf(_jvm=jvm, _jconf=context.getConf())
    spark = SparkSession(SparkContext(gateway=gateway, jsc=context, conf=conf), session)
    spark.catalog.clearCache()
    jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    return spark


def carry_out(order: Order, report_commit: Callable[[str], None]) -> bool:
    """Carry out the run of the order, and return whether it succeeded."""
    lake = Catalog(graph.load(order.modules), Path(order.root))
    run = Run(order.run, "revision")
    watch = Watch(order, report_commit)
    with lock_lake(lake.root, run.id, order.wait_seconds, run.lease):
        spark = attach_session()
        watch.wrap_all()
        names = lake.graph.select()
        request = RunRequest(frozenset(names if order.full_refresh else ()))
        report = run_tables(SparkEngine.wrap_session(spark), lake, names, request, run, parallel=1)
    sys.stderr.writelines(f"{result.describe_failure()}\n" for result in report.results if result.error)
    return not report.has_failed


def fork(order: Order, commits_to: int) -> int:
    """Start the order's run, and return its process id.

    Args:
        commits_to: The file descriptor that receives the name of each commit.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = 0 if carry_out(order, lambda name: _write_line(commits_to, name)) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # A fork must not run the exit handlers of its parent.


def _write_line(descriptor: int, text: str) -> None:
    os.write(descriptor, f"{text}\n".encode())


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Printed text is no answer.
    pipes: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            read_end, write_end = os.pipe()
            pid = fork(Order(**request["start"]), write_end)
            os.close(write_end)
            pipes[pid] = read_end
            answer: Any = pid
        else:
            _, status = os.waitpid(request["wait"], 0)
            with os.fdopen(pipes.pop(request["wait"])) as commits:
                answer = Answer(os.waitstatus_to_exitcode(status), commits.read().splitlines()).__dict__
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
