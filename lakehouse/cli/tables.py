"""Commands on the lake's tables: plan, run, inspect, query, check, vacuum."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from lakehouse import api
from lakehouse.cli.options import AsJson, FirstDay, FullRefresh, LastDay, Limit, Select, as_dates
from lakehouse.cli.render.lake import (
    print_findings,
    print_history,
    print_status,
    print_tables,
    print_unused_suites,
)
from lakehouse.cli.render.models import print_vacuum
from lakehouse.cli.render.plans import print_plan
from lakehouse.cli.render.quarantine import print_accounts
from lakehouse.cli.render.rows import print_rows
from lakehouse.cli.render.runs import print_report, show_progress
from lakehouse.cli.terminal import console
from lakehouse.quality.findings import find_findings
from lakehouse.runs import context, logs
from lakehouse.settings import Settings

# The exit status of a strict run with rejected files or quarantined rows.
EXIT_REJECTED: Final = 3


def show_plan(
    select: Select = None,
    full_refresh: FullRefresh = False,
    since: FirstDay = None,
    until: LastDay = None,
    as_json: AsJson = False,
) -> None:
    """Show what the next run would do to each table, and why. Exits with 1 on a breaking schema change."""
    from lakehouse.plan import planner

    settings = api.load_settings()
    selection = _select_tables(settings, select, full_refresh, since, until)
    steps = planner.plan_steps(selection.catalog, selection.names, selection.request)
    problems = [] if as_json else api.find_problems(settings, selection.catalog)
    print_plan(console, selection.catalog, steps, as_json, problems)
    if any(step.is_breaking for step in steps):
        raise typer.Exit(1)


def run_tables(
    select: Select = None,
    full_refresh: FullRefresh = False,
    since: FirstDay = None,
    until: LastDay = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with 3 if a file is rejected, or the last commit of a table quarantined rows. "
            "The setting `strict` does so for every run.",
        ),
    ] = False,
) -> None:
    """Bring tables up to date. Exits with 1 if a table failed."""
    settings = api.load_settings()
    selection = _select_tables(settings, select, full_refresh, since, until)
    run = context.create_run(settings.project, settings.logs)
    with logs.log_run(settings, run) as log, show_progress(console, selection.names) as listener:
        report = api.run_pipeline(settings, selection, run, listener, log)
    print_report(console, report, log)
    print_unused_suites(console, selection.catalog)
    if report.has_failed:
        raise typer.Exit(1)
    if strict or settings.strict:
        findings = list(find_findings(selection.catalog, selection.names))
        print_findings(console, findings)
        if findings or report.has_rejects:
            raise typer.Exit(EXIT_REJECTED)


def _select_tables(
    settings: Settings, select: Select, full_refresh: FullRefresh, since: FirstDay, until: LastDay
) -> api.Selection:
    first, last = as_dates(since, until)
    return api.select_tables(settings, select or (), is_full_refresh=full_refresh, since=first, until=last)


def show_status(as_json: AsJson = False) -> None:
    """Show each table's state: last run, row counts, pending work, rejected files."""
    print_status(console, context.open_catalog(api.load_settings()), as_json)


def show_lineage(table: str) -> None:
    """Show a table's inputs by version, down to the landed files, and the tables that read it."""
    from lakehouse.runs import lineage

    console.print(lineage.build_tree(context.open_catalog(api.load_settings()), table), highlight=False)


def reconcile_lake(
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare every file with the digest of its commit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recount the rows of landed files, bronze, tables and quarantine. Exits with 1 on a difference."""
    from lakehouse.quality.reconciliation import reconcile, verify_tables

    catalog = context.open_catalog(api.load_settings())
    accounts = reconcile(catalog)
    verifications = verify_tables(catalog) if deep else None
    print_accounts(console, accounts, verifications, as_json)
    results = [*(account.differences for account in accounts), *(v.differences for v in (verifications or {}).values())]
    if any(results):
        raise typer.Exit(1)


def list_tables(as_json: AsJson = False) -> None:
    """List the tables with rows, size and version."""
    print_tables(console, context.open_catalog(api.load_settings()), as_json)


def show_history(table: str, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List a table's versions: time, run, inputs and rows written."""
    print_history(console, context.open_catalog(api.load_settings()), table, limit, as_json)


def query_tables(text: Annotated[str, typer.Argument(metavar="QUERY")], as_json: AsJson = False) -> None:
    """Query the tables by name (DuckDB): lakehouse sql 'select * from silver.orders limit 5'."""
    from lakehouse.deltalog.sql import query

    print_rows(console, query(api.load_settings().lake, text), as_json)


def vacuum_table(
    table: str,
    keep_days: Annotated[
        int | None, typer.Option(min=7, help="By default the table's retention, 30 days unless it declares another.")
    ] = None,
    forget: Annotated[
        list[str] | None,
        typer.Option(help="A model version, such as NAME:3, whose training data may be removed."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed.")] = False,
) -> None:
    """Remove a table's files that only older versions need. Refuses where a registered model needs one of them."""
    settings = api.load_settings()
    run = context.create_run(settings.project, settings.logs)
    with logs.log_run(settings, run), console.status("looking for unused files"):
        result = api.vacuum(settings, table, run, keep_days=keep_days, forget=forget or (), dry_run=dry_run)
    print_vacuum(console, result, dry_run)
