"""Running the graph: each table when its inputs are done, independent ones side by side."""

from __future__ import annotations

import logging
import secrets
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from lakehouse.catalog import Lake
from lakehouse.definitions.sources import Source
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.base import Engine
from lakehouse.errors import LakehouseError, SchemaError, locate_error
from lakehouse.plan.backfill import split_by_year
from lakehouse.plan.planner import decide_step
from lakehouse.plan.schema_diff import SchemaChanges
from lakehouse.plan.steps import Blocked, Ingest, Request, Step, UpdatePartitions, WriteStep
from lakehouse.project import find_root
from lakehouse.storage import s3
from lakehouse.writes.executor import execute_step
from lakehouse.writes.table_writer import Outcome, TableWriter, sum_outcomes

Status = Literal["written", "unchanged", "failed", "skipped", "blocked"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableResult:
    """What became of one table in a run."""

    table: str
    status: Status
    step: Step | None = None
    outcome: Outcome | None = None
    seconds: float = 0.0
    error: str = ""

    def describe_failure(self) -> str:
        """The error with the table's name before it, once: some errors begin with it."""
        return f"{self.table}: {self.error.removeprefix(f'{self.table}: ')}"


@dataclass(frozen=True)
class RunReport:
    """What a run did; it failed if any table did."""

    run: str
    results: tuple[TableResult, ...]
    seconds: float

    @property
    def has_failed(self) -> bool:
        return any(one.status in ("failed", "skipped") for one in self.results)


@dataclass
class RunListener:
    """What is told of a run while it works: a table started, a table is done."""

    on_table_start: Callable[[str], None] = field(default=lambda table: None)
    on_table_end: Callable[[TableResult], None] = field(default=lambda result: None)


def create_run() -> Run:
    """A run id that sorts by time (UTC), and the code's revision."""
    return Run(f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", get_revision())


def get_revision() -> str:
    """The commit that is checked out, marked where files differ from it; empty where there is no git."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=find_root(), capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""


def run_tables(
    engine: Engine,
    lake: Lake,
    names: Iterable[str],
    request: Request,
    run: Run,
    parallel: int,
    listener: RunListener | None = None,
) -> RunReport:
    """Bring the tables up to date. A table's failure stops only those that depend on it."""
    listener = listener or RunListener()
    began = time.monotonic()
    # First what the most tables wait for: what nothing waits for fills the gaps.
    waiting = sorted(names, key=lambda name: -len(lake.graph.downstream(name)))
    results: dict[str, TableResult] = {}
    under_way: dict[Future[TableResult], str] = {}
    with ThreadPoolExecutor(parallel, thread_name_prefix="table") as pool, _cancel_on_error(engine, under_way):
        while waiting or under_way:
            for name in _find_ready_tables(lake, waiting, under_way.values())[: parallel - len(under_way)]:
                waiting.remove(name)
                blocked = [
                    i for i in lake.graph.inputs(name) if i in results and results[i].status in ("failed", "skipped")
                ]
                if blocked:
                    results[name] = TableResult(name, "skipped", error=f"{', '.join(blocked)} failed")
                    listener.on_table_end(results[name])
                    continue
                listener.on_table_start(name)
                under_way[pool.submit(_run_table, engine, lake, name, request, run)] = name
            for future in engine.wait(under_way) if under_way else ():
                name = under_way.pop(future)
                results[name] = future.result()
                listener.on_table_end(results[name])
    ordered = tuple(results[name] for name in lake.graph.declarations if name in results)
    return RunReport(run.id, ordered, time.monotonic() - began)


@contextmanager
def _cancel_on_error(engine: Engine, running: Mapping[Future[TableResult], str]) -> Iterator[None]:
    """Cancel the tables under way when an error or an interrupt ends the run, as a rule before their commits.

    Again and again, as each may be between two of its jobs.
    """
    try:
        yield
    except BaseException:  # whatever it is: a table that waits for the session would wait for ever
        while wait(running, timeout=0.2).not_done:
            with suppress(Exception):  # the JVM may have been interrupted, too
                engine.cancel()
        raise


def _find_ready_tables(lake: Lake, waiting: list[str], running: Iterable[str]) -> list[str]:
    """The tables all of whose inputs are done or not part of this run, in order."""
    pending = {*waiting, *running}
    return [name for name in waiting if not pending.intersection(lake.graph.inputs(name))]


def _run_table(engine: Engine, lake: Lake, name: str, request: Request, run: Run) -> TableResult:
    began = time.monotonic()
    try:
        done = engine.retry_on_conflict(name, lambda: _attempt(engine, lake, name, request, run))
        return replace(done, seconds=time.monotonic() - began) if done.outcome else done
    except LakehouseError as error:
        said = str(error)
    except Exception as error:  # one table's failure, whatever it is, must not take the others with it
        logger.exception("%s failed", name)
        said = s3.explain_error(error) or _shorten_error(error)
    return TableResult(name, "failed", seconds=time.monotonic() - began, error=said)


def _attempt(engine: Engine, lake: Lake, name: str, request: Request, run: Run) -> TableResult:
    run.lease.check()
    step = _decide_or_refuse(lake, name, request)
    declared = lake.graph.declarations[name]
    # What is pinned comes first: an extract might take the place of one of its files.
    if isinstance(declared, Source) and declared.database and not (isinstance(step, Ingest) and step.manifest):
        _extract(engine, lake, declared, run)
        step = _decide_or_refuse(lake, name, request)
    if not isinstance(step, WriteStep):
        return TableResult(name, "blocked" if isinstance(step, Blocked) else "unchanged", step)
    if isinstance(step, UpdatePartitions) and step.backfilled:
        outcome = _backfill(engine, lake, run, step)
    else:
        outcome = execute_step(TableWriter(engine, lake, run, step))
    return TableResult(name, "written" if outcome.is_committed else "unchanged", step, outcome)


def _backfill(engine: Engine, lake: Lake, run: Run, step: UpdatePartitions) -> Outcome:
    """Replace the partitions that were asked for in pieces, each a commit: a run that is cut off is resumed behind the last."""
    asked = {*step.backfilled}
    outcomes = []
    for number, (partitions, years) in enumerate(split_by_year({*step.partitions} - asked, asked)):
        run.lease.check()
        piece = replace(
            step, partitions=tuple(sorted(partitions)), backfilled=tuple(sorted(years)), batch=step.batch + number
        )
        outcomes.append(execute_step(TableWriter(engine, lake, run, piece)))
        step = replace(step, schema_changes=SchemaChanges())  # the first piece adapted the columns
    return sum_outcomes(outcomes)


def _extract(engine: Engine, lake: Lake, declared: Source, run: Run) -> None:
    engine.extract(declared, lake.landing_zone(declared), lake.root.joinpath("extracts", declared.name), run)


def _decide_or_refuse(lake: Lake, name: str, request: Request) -> Step:
    """What to do now.

    Raises:
        SchemaError: the declared columns break with the table's.
    """
    step = decide_step(lake, name, request)
    if step.is_breaking:
        raise SchemaError(
            f"{name}: the declared columns break with the table's ({'; '.join(step.schema_changes.describe())}). "
            f"Run `lakehouse run --full-refresh --select {name}+` to make it anew, or take the change back."
        )
    return step


def _shorten_error(error: Exception) -> str:
    """The first lines of an error, without the query plan and the JVM's stack trace, and where in the user's code it arose."""
    told = str(error).split("\n'", 1)[0].split("\n==", 1)[0]
    lines = [line for line in told.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
    return (" ".join(lines[:3])[:600] or type(error).__name__) + locate_error(error)
