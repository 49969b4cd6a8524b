"""The command that rolls back a run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lakehouse import api
from lakehouse.cli.render.rollback import print_outcome, print_plan
from lakehouse.cli.terminal import console
from lakehouse.errors import RollbackError
from lakehouse.runs import context, logs


def roll_back_run(
    run: Annotated[str, typer.Argument(help="A run's id, as `lakehouse history TABLE` shows it.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be restored, and what the next run does.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Roll back a run: restore every table that it wrote. Shows the plan, and asks.

    The next run ingests the landed files of that run again.
    """
    from lakehouse.plan.rollback import plan_rollback

    settings = api.load_settings()
    plan = plan_rollback(context.open_catalog(settings), run)
    print_plan(console, plan)
    if dry_run or not plan.tables:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise RollbackError(
                "Cannot ask for confirmation: stdin is not a terminal. Nothing was changed. Pass --yes to continue."
            )
        typer.confirm("Roll back?", abort=True)
    own_run = context.create_run(settings.project, settings.logs)
    with logs.log_run(settings, own_run) as log, console.status("rolling back"):
        api.roll_back(settings, plan, own_run, log)
    print_outcome(console, plan, own_run.id)
