"""Commands on quarantined rows: list, show, replay."""

from __future__ import annotations

from typing import Annotated

import typer

from lakehouse import api
from lakehouse.cli.options import AsJson, Limit
from lakehouse.cli.render.quarantine import print_rejects, print_replay, print_summaries
from lakehouse.cli.terminal import console
from lakehouse.quality import quarantine
from lakehouse.runs import context, logs

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Quarantined rows: list, show, replay.")


@group.command("list")
def list_quarantines(as_json: AsJson = False) -> None:
    """Count each table's quarantined rows by violated rule, and those replayed or discarded."""
    print_summaries(console, quarantine.summarize_quarantines(context.open_catalog(api.load_settings())), as_json)


@group.command("show")
def show_rejects(
    table: str,
    rule: Annotated[str | None, typer.Option(help="Rows that violate this rule.")] = None,
    file: Annotated[str | None, typer.Option(help="Rows of this landed file: its path or its name.")] = None,
    run: Annotated[str | None, typer.Option(help="Rows that this run quarantined.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show a table's quarantined rows, newest first: file, row, run, violated rules, and the values as landed."""
    catalog = context.open_catalog(api.load_settings())
    rejects = quarantine.find_newest_rejects(catalog, table, rule=rule, file=file, run=run)
    print_rejects(console, table, rejects, quarantine.list_reject_columns(catalog, table), limit, as_json)


@group.command("replay")
def replay_rejects(
    table: str, dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what the replay would do.")] = False
) -> None:
    """Run a table's quarantined rows through today's code and rules. The outcome of each row is recorded."""
    settings = api.load_settings()
    run = context.create_run(settings.project, settings.logs)
    with logs.log_run(settings, run) as log, console.status("replaying"):
        result = api.replay(settings, table, run, log, dry_run)
    print_replay(console, result, dry_run)
