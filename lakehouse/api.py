"""The functions behind commands and jobs, on the lake of the settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse import engine
from lakehouse.catalog import Catalog
from lakehouse.definitions.tables import Table
from lakehouse.deltalog.commit_record import Run
from lakehouse.errors import DeclarationError, RollbackError
from lakehouse.plan.steps import RunRequest
from lakehouse.quality import quarantine
from lakehouse.quality.problems import Problem
from lakehouse.runs.context import examine_catalog, open_catalog, open_locked_engine
from lakehouse.settings import Settings, load
from lakehouse.storage import location

if TYPE_CHECKING:
    from lakehouse.gpu.explanation import TableReport
    from lakehouse.plan.rollback import RollbackPlan
    from lakehouse.quality.repair import RepairPlan
    from lakehouse.runs.report import RunListener, RunReport
    from lakehouse.runs.vacuum import VacuumResult
    from lakehouse.writes.replay import ReplayResult


@dataclass(frozen=True)
class Selection:
    """The tables that a user selected, and what the user asks for them."""

    catalog: Catalog
    names: tuple[str, ...]
    request: RunRequest


def select_tables(
    settings: Settings,
    selectors: Iterable[str] = (),
    *,
    is_full_refresh: bool = False,
    since: date | None = None,
    until: date | None = None,
) -> Selection:
    """Select tables for a plan or a run.

    Args:
        selectors: Tables, `+t`, `t+` or layers. Without any, all tables.
        is_full_refresh: Rebuild the selected tables.
        since: The first day to recompute in tables that are replaced by partition.
        until: The last day, included.

    Raises:
        DeclarationError: A range of dates lacks an end or is reversed, no selected table is replaced by partition, or
            a selector names no table.
    """
    catalog = open_catalog(settings)
    names = catalog.graph.select(tuple(selectors))
    _check_range(catalog, names, since, until)
    refreshed = frozenset(names) if is_full_refresh else frozenset[str]()
    return Selection(catalog, names, RunRequest(refreshed, since, until, settings.foreign_commits == "refuse"))


def _check_range(catalog: Catalog, names: tuple[str, ...], since: date | None, until: date | None) -> None:
    if since is None and until is None:
        return
    if since is None or until is None:
        raise DeclarationError("A range needs both --from and --to.")
    if since > until:
        raise DeclarationError(f"--from {since} is after --to {until}.")
    declared = (catalog.graph.declarations[name] for name in names)
    if not any(isinstance(t, Table) and t.partitioning for t in declared):
        raise DeclarationError(
            "--from and --to: none of the selected tables is replaced by partition. Select one, or omit the range."
        )


def check_project(settings: Settings) -> list[Problem]:
    """Find every problem of the project that shows without an engine, in declarations, rules, suites, models and conf.

    Errors come first.
    """
    catalog, texts = examine_catalog(settings)
    problems = [*map(Problem, texts), *find_problems(settings, catalog)]
    if isinstance(settings.root, Path) and not texts:  # a bucket may be out of reach
        problems += [Problem(f"landing/{name}: no source reads this", False) for name in catalog.find_unread_folders()]
    return sorted(problems, key=lambda problem: not problem.is_error)


def find_problems(settings: Settings, catalog: Catalog) -> list[Problem]:
    """Find the problems of a project whose declarations fit together."""
    from lakehouse.quality import checks, project_checks

    return [*checks.find_problems(catalog), *project_checks.find_problems(settings)]


def run_pipeline(settings: Settings, selection: Selection, run: Run, listener: RunListener, log: Path) -> RunReport:
    """Bring the selected tables up to date, under the lake's lock. An engine starts only for a table with work."""
    from lakehouse.runs import lineage
    from lakehouse.runs.scheduler import run_tables

    listener = lineage.add_lineage(settings, selection.catalog, run, listener)
    with open_locked_engine(settings, run, log) as running:
        return run_tables(
            running, selection.catalog, selection.names, selection.request, run, settings.parallel_tables, listener
        )


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


def write_spark_properties(settings: Settings) -> Path:
    """Write the Spark properties of the settings to a file for spark-submit, below the folder of logs; return its path.

    The GPU's plugin is fetched if the settings name it. Keys of a store are no properties: the environment has them.

    Raises:
        SessionError: the plugin cannot be fetched.
    """
    if settings.gpu:
        from lakehouse.gpu.plugin import fetch_jar

        fetch_jar(settings)
    properties = engine.compose_spark_properties(settings)
    file = settings.logs / f"spark-{settings.profile}.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    location.put(file, "".join(f"{name} {value}\n" for name, value in properties.items()).encode())
    return file


def report_gpu_coverage(settings: Settings, selectors: Iterable[str], log: Path | None) -> list[TableReport]:
    """Report which parts of the selected tables' plans would run on a GPU, in a new session."""
    from lakehouse.gpu.report import report_tables
    from lakehouse.gpu.spark_properties import configure_spark

    catalog = open_catalog(settings).cache_logs()
    explaining = configure_spark(settings.model_copy(update={"gpu": "explain"}))
    with engine.open_spark_session(explaining, log) as spark:
        return report_tables(spark, catalog, catalog.graph.select(tuple(selectors)))


def replay(settings: Settings, table: str, run: Run, log: Path | None, dry_run: bool) -> ReplayResult:
    """Replay a table's rejects, under the lake's lock, in a new session."""
    from lakehouse.writes.replay import ReplayResult, replay_rejects

    catalog = open_catalog(settings)
    if not quarantine.find_pending_rejects(catalog, table):  # An empty result needs no JVM.
        return ReplayResult(table)
    with open_locked_engine(settings, run, log) as running:
        return running.retry_on_conflict(table, lambda: replay_rejects(running, catalog, table, run, dry_run=dry_run))


def roll_back(settings: Settings, plan: RollbackPlan, run: Run, log: Path | None) -> None:
    """Roll back a run as planned, under the lake's lock, in a new session.

    Raises:
        RollbackError: the lake has changed since the plan was made.
    """
    from lakehouse.plan.rollback import plan_rollback
    from lakehouse.writes.rollback import roll_back_tables

    catalog = open_catalog(settings)
    with open_locked_engine(settings, run, log) as running:
        if plan_rollback(catalog, plan.run).tables != plan.tables:
            raise RollbackError(
                f"Run {plan.run}: the lake has changed since the plan, so nothing was rolled back. Check the new plan."
            )
        roll_back_tables(running, catalog, plan, run)


def repair(settings: Settings, run: Run) -> RepairPlan:
    """Rebuild the missing manifests, under the lake's lock.

    Raises:
        LockError: another run holds the lake.
    """
    from lakehouse.quality.repair import plan_repair, write_manifests
    from lakehouse.storage.lock import lock_lake

    catalog = open_catalog(settings)
    with lock_lake(settings.root, run.id, settings.lock_wait_seconds, run.lease):
        plan = plan_repair(catalog)
        write_manifests(catalog, plan)
    return plan


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
    from lakehouse.ml.retention import find_pinned_versions
    from lakehouse.runs.vacuum import vacuum_table

    return vacuum_table(
        settings,
        table,
        run,
        lambda log: find_pinned_versions(settings.tracking_uri, table, log, forget),
        keep_days=keep_days,
        dry_run=dry_run,
    )
