"""Run the graph: each table after its inputs, independent tables in parallel."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace

from lakehouse.catalog import Catalog
from lakehouse.causes import describe_cause
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declaration
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.base import Engine
from lakehouse.errors import ForeignCommitError, LakehouseError, SchemaError
from lakehouse.landing.batches import split_into_batches
from lakehouse.plan.backfill import split_by_year
from lakehouse.plan.planner import decide_step
from lakehouse.plan.schema_diff import SchemaChanges
from lakehouse.plan.steps import Blocked, Ingest, RunRequest, Step, UpdatePartitions, WriteStep
from lakehouse.runs.report import RunListener, RunReport, TableResult
from lakehouse.storage import s3
from lakehouse.writes.executor import execute_step
from lakehouse.writes.outcome import Outcome, sum_outcomes
from lakehouse.writes.table_writer import TableWriter

logger = logging.getLogger(__name__)


def run_tables(
    engine: Engine,
    catalog: Catalog,
    names: Iterable[str],
    request: RunRequest,
    run: Run,
    parallel: int,
    listener: RunListener | None = None,
) -> RunReport:
    """Bring the tables up to date. A failed table stops only the tables that depend on it."""
    listener = listener or RunListener()
    began = time.monotonic()
    # Tables with the most dependents come first. Tables without any fill the gaps.
    pending = sorted(names, key=lambda name: -len(catalog.graph.find_downstream(name)))
    results: dict[str, TableResult] = {}
    running: dict[Future[TableResult], str] = {}
    with ThreadPoolExecutor(parallel, thread_name_prefix="table") as pool, _cancel_on_error(engine, running):
        while pending or running:
            for name in _find_ready_tables(catalog, pending, running.values())[: parallel - len(running)]:
                pending.remove(name)
                failed_inputs = [
                    i
                    for i in catalog.graph.list_inputs(name)
                    if i in results and results[i].status in ("failed", "skipped")
                ]
                if failed_inputs:
                    results[name] = TableResult(name, "skipped", error=f"{', '.join(failed_inputs)} failed")
                    listener.on_table_end(results[name])
                    continue
                listener.on_table_start(name)
                running[pool.submit(_run_table, engine, catalog, name, request, run)] = name
            for future in engine.wait(running) if running else ():
                name = running.pop(future)
                results[name] = future.result()
                listener.on_table_end(results[name])
    ordered = tuple(results[name] for name in catalog.graph.declarations if name in results)
    return RunReport(run.id, ordered, time.monotonic() - began)


@contextmanager
def _cancel_on_error(engine: Engine, running: Mapping[Future[TableResult], str]) -> Iterator[None]:
    """Cancel the running tables when an error or an interrupt ends the run, usually before their commits.

    Cancel repeatedly, as a table may be between two of its jobs.
    """
    try:
        yield
    except BaseException:  # On any error, a table that waits for the session must not wait forever.
        while wait(running, timeout=0.2).not_done:
            with suppress(Exception):  # The JVM may have been interrupted, too.
                engine.cancel()
        raise


def _find_ready_tables(catalog: Catalog, pending: list[str], running: Iterable[str]) -> list[str]:
    """Return the pending tables without a pending or running input, in order."""
    unfinished = {*pending, *running}
    return [name for name in pending if not unfinished.intersection(catalog.graph.list_inputs(name))]


def _run_table(engine: Engine, catalog: Catalog, name: str, request: RunRequest, run: Run) -> TableResult:
    began = time.monotonic()
    try:
        result = engine.retry_on_conflict(name, lambda: _attempt(engine, catalog, name, request, run))
        return replace(result, seconds=time.monotonic() - began) if result.outcome else result
    except LakehouseError as error:
        message = str(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # No failure of one table may stop others. A panic of Rust is no Exception.
        logger.exception("%s failed", name)
        message = s3.explain_error(error) or describe_cause(error)
    return TableResult(name, "failed", seconds=time.monotonic() - began, error=message)


def _attempt(engine: Engine, catalog: Catalog, name: str, request: RunRequest, run: Run) -> TableResult:
    run.lease.check()
    step = _decide_or_refuse(catalog, name, request)
    declared = catalog.graph.declarations[name]
    # A pinned manifest is finished first, as an extract might replace one of its files.
    if isinstance(declared, Source) and declared.database and not (isinstance(step, Ingest) and step.manifest):
        _extract(engine, catalog, declared, run)
        step = _decide_or_refuse(catalog, name, request)
    if not isinstance(step, WriteStep):
        return TableResult(name, "blocked" if isinstance(step, Blocked) else "unchanged", step)
    if isinstance(step, UpdatePartitions) and step.backfilled:
        outcome = _execute_pieces(engine, catalog, run, _split_backfill(step))
    elif isinstance(step, Ingest) and not _is_one_batch(step, declared):
        outcome = _execute_pieces(engine, catalog, run, _split_files(step))
    else:
        outcome = execute_step(TableWriter(engine, catalog, run, step))
    return TableResult(name, "written" if outcome.is_committed else "unchanged", step, outcome)


def _split_backfill(step: UpdatePartitions) -> Iterator[WriteStep]:
    """Split a backfill by year. An interrupted run is resumed after its last commit."""
    backfilled = {*step.backfilled}
    for partitions, years in split_by_year({*step.partitions} - backfilled, backfilled):
        yield replace(step, partitions=tuple(sorted(partitions)), backfilled=tuple(sorted(years)))


def _is_one_batch(step: Ingest, declared: Declaration) -> bool:
    """Return whether the files are one batch: readers never see a part of a full refresh or of a replacement."""
    replaces_files = isinstance(declared, Source) and declared.on_redelivery == "replace"
    return step.is_full_refresh or step.manifest is not None or replaces_files


def _split_files(step: Ingest) -> Iterator[WriteStep]:
    """Split landed files into batches."""
    for files in split_into_batches(step.files):
        yield replace(step, files=files)


def _execute_pieces(engine: Engine, catalog: Catalog, run: Run, pieces: Iterable[WriteStep]) -> Outcome:
    """Execute the pieces of a step, each with a commit and a batch number of its own."""
    outcomes = list[Outcome]()
    for number, piece in enumerate(pieces):
        run.lease.check()
        # The first piece adapts the columns.
        changes = SchemaChanges() if number else piece.schema_changes
        step = replace(piece, batch=piece.batch + number, schema_changes=changes)
        outcomes.append(execute_step(TableWriter(engine, catalog, run, step)))
    return sum_outcomes(outcomes)


def _extract(engine: Engine, catalog: Catalog, declared: Source, run: Run) -> None:
    engine.extract(declared, catalog.get_landing_zone(declared), catalog.root.joinpath("extracts", declared.name), run)


def _decide_or_refuse(catalog: Catalog, name: str, request: RunRequest) -> Step:
    """Decide the step of a table.

    Raises:
        SchemaError: the declared columns break with the columns of the table.
        ForeignCommitError: another writer's rows would reach the table, and the request refuses them.
    """
    step = decide_step(catalog, name, request)
    if step.is_breaking:
        changes = "; ".join(step.schema_changes.describe())
        raise SchemaError(
            f"{name}: the declared columns break with those of the table ({changes}). "
            f"Run `lakehouse run --full-refresh --select {name}+` to rebuild the table, or revert the declaration."
        )
    if request.refuses_foreign_commits and step.accepted_commits:
        changed = step.accepted_commits[0].table
        raise ForeignCommitError(
            f"{name}: {'; '.join(commit.describe() for commit in step.accepted_commits)}. Rebuild {changed} with "
            f"`lakehouse run --full-refresh --select {changed}+`, or accept the rows: LAKEHOUSE_FOREIGN_COMMITS=warn.",
            name,
        )
    return step
