"""Renderer of `plan`: the next run's action on each table, the reasons, and the columns that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lakehouse.cli.render.lake import print_foreign_commits, print_unread
from lakehouse.cli.render.printing import escape_text, format_count, format_size, make_grid, print_json
from lakehouse.definitions.fingerprint import can_read_column
from lakehouse.definitions.tables import Table
from lakehouse.plan.steps import Idle, Ingest, UpdatePartitions, WriteStep

if TYPE_CHECKING:
    from rich.console import Console

    from lakehouse.catalog import Catalog
    from lakehouse.plan.steps import Step
    from lakehouse.quality.problems import Problem


def print_plan(
    console: Console, catalog: Catalog, steps: Sequence[Step], as_json: bool, problems: Sequence[Problem] = ()
) -> None:
    """Print the steps of the next run, and the problems of the project."""
    if as_json:
        print_json(console, [_as_entry(catalog, step) for step in steps])
        return
    grid = make_grid("table", "does", "why", ">rows to read", ">bytes", "partitions", "affects")
    for step in steps:
        style = "bold red" if step.is_breaking else "" if step.has_work else "dim"
        grid.add_row(*_plan_cells(catalog, step), style=style)
    console.print(grid)
    _print_differences(console, catalog, steps)
    for step in steps:
        print_foreign_commits(console, step.table, step.foreign_commits)
    if any(step.is_code_changed for step in steps):
        text = "\nExisting rows stay as they are where only code changed; --full-refresh rebuilds them."
        console.print(text, highlight=False)
    print_unread(console, catalog)
    for problem in problems:
        style = "bold red" if problem.is_error else "yellow"
        console.print(f"[{style}]check[/] {escape_text(problem.text)}", highlight=False)
    work = [step for step in steps if step.has_work and not step.is_breaking]
    summary = f"{len(work)} of {len(steps)} tables would be written." if work else "Nothing to do."
    console.print(f"\n{summary}", highlight=False)
    if broken := [step.table for step in steps if step.is_breaking]:
        advice = f"run with --full-refresh --select {broken[0]}+ or revert the change."
        console.print(f"[bold red]Breaking schema change[/] in {', '.join(broken)}: {advice}")


def _plan_cells(catalog: Catalog, step: Step) -> list[str]:
    reasons = escape_text("; ".join(step.reasons))
    if step.is_code_changed:
        reasons += "; its code changed since the last commit"
    if not step.has_work:
        return [step.table, "-" if isinstance(step, Idle) else step.action, reasons, "", "", "", ""]
    entry = _as_entry(catalog, step)
    numbers = [format_count(entry["rows"]), format_size(entry["bytes"])]
    return [step.table, step.action, reasons, *numbers, entry["partitions_shown"], ", ".join(entry["downstream"])]


def _print_differences(console: Console, catalog: Catalog, steps: Sequence[Step]) -> None:
    """Print the differences from the declared columns, and the tables that read a changed column."""
    for step in steps:
        style = "bold red" if step.is_breaking else "yellow"
        for text in (*step.schema_changes.describe(), *(step.drift if isinstance(step, Ingest) else ())):
            console.print(f"[{style}]columns[/] {step.table} {escape_text(text)}", highlight=False)
        for column, readers in _list_readers(catalog, step).items():
            verb = "reads" if len(readers) == 1 else "read"
            text = f"{', '.join(readers)} {verb} it" if readers else "no table reads it"
            console.print(f"        {step.table}.{column}: {text}", highlight=False)
    if any(step.schema_changes.added_columns for step in steps):
        console.print("Added columns are null in existing rows; --full-refresh rebuilds them.", highlight=False)


def _list_readers(catalog: Catalog, step: Step) -> dict[str, list[str]]:
    """Return the tables that name a changed column of the step's table, by column."""
    tables = [table for table in catalog.graph.declarations.values() if isinstance(table, Table)]
    readers = [table for table in tables if step.table in catalog.graph.list_inputs(table.name)]
    return {name: [table.name for table in readers if can_read_column(table, name)] for name in step.changed_columns}


def _as_entry(catalog: Catalog, step: Step) -> dict[str, Any]:
    days = [str(day) for day in step.partitions] if isinstance(step, UpdatePartitions) else None
    files, drift = (step.files, step.drift) if isinstance(step, Ingest) else ((), ())
    rows, size = (step.rows, step.bytes) if isinstance(step, WriteStep) else (0, 0)
    is_final = not step.pending_inputs
    shown = "" if days is None else f"{len(days)}: {days[0]} to {days[-1]}"
    inputs = {
        name: {"from": step.previous_versions.get(name), "to": consumed.version}
        for name, consumed in step.inputs.items()
    }
    return {
        "table": step.table,
        "action": step.action,
        "reasons": list(step.reasons),
        "after": list(step.pending_inputs),
        "files": [file.path for file in files],
        "rows": rows if is_final else None,
        "bytes": size if is_final else None,
        "inputs": inputs,
        "partitions": days,
        "partitions_shown": shown if is_final else "known after its inputs",
        "schema_changes": list(step.schema_changes.describe()),
        "drift": list(drift),
        "readers": _list_readers(catalog, step),
        "foreign_commits": [asdict(commit) for commit in step.foreign_commits],
        "breaking": step.is_breaking,
        "code_changed": step.is_code_changed,
        "downstream": list(catalog.graph.find_downstream(step.table)),
    }
