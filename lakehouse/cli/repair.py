"""The command that rebuilds missing manifests."""

from __future__ import annotations

from typing import Annotated

import typer

from lakehouse import api
from lakehouse.cli.render.repair import print_repair
from lakehouse.cli.terminal import console
from lakehouse.runs import context, logs


def repair_lake(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write the manifests; otherwise only show them.")] = False,
) -> None:
    """Rebuild the missing manifests of committed batches from the rows of bronze and the landed files.

    Lists what is missing. Exits with 1 if a part cannot be rebuilt.
    """
    from lakehouse.quality.repair import plan_repair

    settings = api.load_settings()
    if yes:
        run = context.create_run(settings.project, settings.logs)
        with logs.log_run(settings, run):
            plan = api.repair(settings, run)
    else:
        plan = plan_repair(context.open_catalog(settings))
    print_repair(console, plan, is_done=yes)
    if not plan.is_complete:
        raise typer.Exit(1)
