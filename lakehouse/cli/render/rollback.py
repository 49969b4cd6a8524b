"""Renderers of `rollback`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console

from lakehouse.cli.render.printing import escape_text, make_grid, pluralize
from lakehouse.plan.rollback import RollbackPlan

_MOST_FILES: Final = 20


def print_plan(console: Console, plan: RollbackPlan) -> None:
    """Print the versions to which the tables are restored, and the work of the next run."""
    if not plan.tables:
        text = f"Run {plan.run} is rolled back already. `lakehouse run` continues from there."
        console.print(text, highlight=False)
        return
    grid = make_grid("table", ">version", ">restored to", ">rows now", ">rows then")
    for table in plan.tables:
        target = "empty" if table.target_version is None else str(table.target_version)
        grid.add_row(
            table.table, str(table.current_version), target, f"{table.current_rows:,}", f"{table.target_rows:,}"
        )
    console.print(grid)
    for name in plan.completed_tables:
        console.print(f"{name} is restored already.", highlight=False)
    _print_files(
        console, "The next run ingests these files again, unless they leave the landing zone:", plan.files_to_ingest
    )
    missing = "[yellow]No longer in the landing zone as ingested, so their rows do not come back:[/]"
    _print_files(console, missing, plan.missing_files)
    for name, reason in plan.tables_to_rebuild.items():
        console.print(f"The next run rebuilds {name}: {reason}.", highlight=False)


def _print_files(console: Console, title: str, paths: Sequence[str]) -> None:
    if not paths:
        return
    console.print(title, highlight=False)
    for path in paths[:_MOST_FILES]:
        console.print(f"  landing/{escape_text(path)}", highlight=False, soft_wrap=True)
    if len(paths) > _MOST_FILES:
        console.print(f"  ... and {len(paths) - _MOST_FILES:,} more", highlight=False)


def print_outcome(console: Console, plan: RollbackPlan, run: str) -> None:
    """Print the number of restored tables."""
    tables = pluralize(len(plan.tables), "table")
    text = f"Run {plan.run} is rolled back by run {run}: {tables} restored. `lakehouse run` continues from there."
    console.print(text, highlight=False)
