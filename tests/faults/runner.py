"""Runs of a lake in processes of their own, which die or stop at a commit, on the JVM of the tests.

Python makes no commit that it does not wait for, so a process that dies between two leaves the same lake whether its JVM
dies with it or not; a JVM for each would take ten times as long. What dies in the middle of a write takes its JVM with it:
see driver.py.

Each run is a fork of this process, so that what is slow to import is imported once. Orders come and answers go in lines of
JSON; `tests.faults.processes` is the other end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from lakehouse.catalog import Lake
from lakehouse.definitions import graph
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.engine.spark.tables import SparkTables
from lakehouse.plan.steps import Request
from lakehouse.runs.scheduler import run_tables
from lakehouse.storage import location
from lakehouse.storage.lock import lock_lake
from tests.faults.processes import Answer, Order

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Watch:
    """What every commit goes through: it is told, and where it is the one of the order, the process is struck."""

    def __init__(self, order: Order, tell: Callable[[str], None]) -> None:
        self.order, self.tell, self.left = order, tell, order.skip

    def commit(self, name: str, call: Callable[[], Any]) -> Any:
        self.tell(name)
        if self.order.when == "before":
            self.strike(name)
        done = call()  # raises where it makes no commit, as a first attempt that meets a bad row does
        if self.order.when == "after":
            self.strike(name)
        return done

    def strike(self, name: str) -> None:
        if self.order.strike and name not in self.order.passed:
            self.left -= 1
            if self.left == -1:
                os.kill(os.getpid(), SIGNALS[self.order.strike])

    def around_all(self) -> None:
        """Manifests, and every write of a table or its quarantine."""
        self._around(SparkTables, "_write", lambda tables, rows, target, *_: target.name)
        self._around(SparkTables, "merge", lambda tables, rows, target, *_: target.name)
        self._around(location, "create", lambda file, _: f"the manifest of {file.parent.name}")

    def _around(self, module: Any, name: str, named: Callable[..., str]) -> None:
        original = getattr(module, name)
        setattr(module, name, lambda *given: self.commit(named(*given), lambda: original(*given)))


def attached() -> SparkSession:
    """The session of the JVM that the environment names, as a new JVM would have it: nothing is remembered."""
    gateway = launch_gateway()
    jvm = gateway.jvm
    session = jvm.SparkSession.getDefaultSession().get()
    context = jvm.JavaSparkContext(session.sparkContext())
    conf = SparkConf(_jvm=jvm, _jconf=context.getConf())
    spark = SparkSession(SparkContext(gateway=gateway, jsc=context, conf=conf), session)
    spark.catalog.clearCache()
    jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    return spark


def carry_out(order: Order, tell: Callable[[str], None]) -> bool:
    """The run of the order; whether all of it went well."""
    lake = Lake(graph.load(order.modules), Path(order.root))
    run = Run(order.run, "revision")
    watch = Watch(order, tell)
    with lock_lake(lake.root, run.id, order.wait_seconds, run.lease):
        spark = attached()
        watch.around_all()
        names = lake.graph.select()
        request = Request(frozenset(names if order.full_refresh else ()))
        report = run_tables(SparkEngine.of(spark), lake, names, request, run, parallel=1)
    sys.stderr.writelines(f"{one.describe_failure()}\n" for one in report.results if one.error)
    return not report.has_failed


def forked(order: Order, told: int) -> int:
    """Start the order's run; what it tells goes to that file descriptor."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = 0 if carry_out(order, lambda name: _tell(told, name)) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # what the parent process would do at its end is not for a fork to do


def _tell(told: int, name: str) -> None:
    os.write(told, f"{name}\n".encode())


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed is no answer
    pipes: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "start" in asked:
            reading, writing = os.pipe()
            pid = forked(Order(**asked["start"]), writing)
            os.close(writing)
            pipes[pid] = reading
            said: Any = pid
        else:
            _, status = os.waitpid(asked["wait"], 0)
            with os.fdopen(pipes.pop(asked["wait"])) as told:
                said = Answer(os.waitstatus_to_exitcode(status), told.read().splitlines()).__dict__
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
