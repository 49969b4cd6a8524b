"""The functions behind commands and jobs, on the lake of the settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.catalog import Lake
from lakehouse.definitions.tables import Table
from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.spark.session import compose_properties, spark_session
from lakehouse.errors import DeclarationError, RollbackError
from lakehouse.plan.steps import Request
from lakehouse.quality import quarantine
from lakehouse.runs import lineage
from lakehouse.runs.context import engine_for, open_lake
from lakehouse.runs.scheduler import RunListener, RunReport, create_run, run_tables
from lakehouse.settings import Settings, load

if TYPE_CHECKING:
    from lakehouse.gpu.explanation import TableReport
    from lakehouse.plan.rollback import RollbackPlan
    from lakehouse.runs.vacuum import VacuumResult
    from lakehouse.writes.replay import ReplayResult


def run_pipeline(
    settings: Settings,
    selectors: Iterable[str] = (),
    request: Request | None = None,
    listener: RunListener | None = None,
    run: Run | None = None,
    log: Path | None = None,
) -> RunReport:
    """Bring the selected tables up to date, under the lake's lock, in a new session."""
    lake = open_lake(settings)
    names = lake.graph.select(tuple(selectors))
    run = run or create_run()
    with engine_for(settings, run, log) as engine:
        listener = lineage.add_lineage(settings, lake, run, listener)
        return run_tables(engine, lake, names, request or Request(), run, settings.parallel_tables, listener)


def load_settings(**overrides: Any) -> Settings:
    """Load the settings for work that may start Spark or train, with what LAKEHOUSE_GPU adds to them.

    Raises:
        SettingsError: a profile or key is unknown, a value is missing or not allowed; every problem is listed.
    """
    settings = load(**overrides)
    if not settings.gpu:
        return settings
    from lakehouse.gpu.spark_properties import configure_spark

    return configure_spark(settings)


def spark_properties(settings: Settings) -> dict[str, str]:
    """Return the Spark properties of the settings for spark-submit; fetch the GPU's plugin if they name it.

    Raises:
        SessionError: the plugin cannot be fetched.
    """
    if settings.gpu:
        from lakehouse.gpu.plugin import fetch_jar

        fetch_jar(settings)
    return compose_properties(settings)


def report_gpu_coverage(settings: Settings, selectors: Iterable[str], log: Path | None) -> list[TableReport]:
    """Report which parts of the selected tables' plans would run on a GPU, in a new session."""
    from lakehouse.gpu.report import report_tables
    from lakehouse.gpu.spark_properties import configure_spark

    lake = open_lake(settings).cache_logs()
    explaining = configure_spark(settings.model_copy(update={"gpu": "explain"}))
    with spark_session(explaining, log) as spark:
        return report_tables(spark, lake, lake.graph.select(tuple(selectors)))


def replay(settings: Settings, table: str, run: Run, log: Path | None, dry_run: bool) -> ReplayResult:
    """Replay a table's rejects, under the lake's lock, in a new session."""
    from lakehouse.writes.replay import ReplayResult, replay_rejects

    lake = open_lake(settings)
    if not quarantine.find_pending_rejects(lake, table):  # An empty result needs no JVM.
        return ReplayResult(table)
    with engine_for(settings, run, log) as engine:
        return engine.retry_on_conflict(table, lambda: replay_rejects(engine, lake, table, run, dry_run=dry_run))


def roll_back(settings: Settings, plan: RollbackPlan, run: Run, log: Path | None) -> None:
    """Roll back a run as planned, under the lake's lock, in a new session.

    Raises:
        RollbackError: the lake has changed since the plan was made.
    """
    from lakehouse.plan.rollback import plan_rollback
    from lakehouse.writes.rollback import roll_back_tables

    lake = open_lake(settings)
    with engine_for(settings, run, log) as engine:
        if plan_rollback(lake, plan.run).tables != plan.tables:
            raise RollbackError(
                f"Run {plan.run}: the lake has changed since the plan, so nothing was rolled back. Check the new plan."
            )
        roll_back_tables(engine, lake, plan, run)


def vacuum(
    settings: Settings, table: str, run: Run, *, keep_days: int | None, forget: Sequence[str], dry_run: bool
) -> VacuumResult:
    """Remove the files that only versions older than ``keep_days`` need.

    Args:
        keep_days: the retention in days; by default the retention of the table.
        forget: versions of registered models, such as late_arrival:3, that need not be reproducible any longer.

    Raises:
        DeclarationError: there is no such table.
        VacuumError: a registered model needs some of the files, MLflow does not answer, or the retention of the table
            is longer. Nothing was removed.
        LockError: another run holds the lake.
    """
    from lakehouse.ml.retention import pinned_versions
    from lakehouse.runs.vacuum import vacuum_table

    return vacuum_table(
        settings,
        table,
        run,
        lambda log: pinned_versions(settings.tracking_uri, table, log, forget),
        keep_days=keep_days,
        dry_run=dry_run,
    )


def make_request(lake: Lake, names: tuple[str, ...], full_refresh: bool, since: Any, until: Any) -> Request:
    """Build the request of a run from the user's options.

    Raises:
        DeclarationError: a range of dates lacks an end or is reversed, or no selected table is replaced by partition.
    """
    if (since is None) != (until is None):
        raise DeclarationError("A range needs both --from and --to.")
    if since is not None and since > until:
        raise DeclarationError(f"--from {since} is after --to {until}.")
    declared = (lake.graph.declarations[name] for name in names)
    if since is not None and not any(isinstance(t, Table) and t.partitioning for t in declared):
        raise DeclarationError(
            "--from and --to: none of the selected tables is replaced by partition. Select one, or omit the range."
        )
    return Request(frozenset(names) if full_refresh else frozenset(), since, until)
