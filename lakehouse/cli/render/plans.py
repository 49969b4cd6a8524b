"""What `plan` prints: what the next run does to each table and why, and which columns are not as declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lakehouse.cli.render import lake as show_lake
from lakehouse.cli.render import printing
from lakehouse.definitions.fingerprint import names_column
from lakehouse.definitions.tables import Table
from lakehouse.plan.steps import Idle, Ingest, UpdatePartitions, WriteStep

if TYPE_CHECKING:
    from rich.console import Console

    from lakehouse.catalog import Lake
    from lakehouse.plan.steps import Step


def plan(console: Console, lake: Lake, steps: Sequence[Step], as_json: bool) -> None:
    """The steps of the next run."""
    if as_json:
        printing.emit(console, [_plan_entry(lake, step) for step in steps])
        return
    shown = printing.grid("table", "does", "why", ">rows to read", ">bytes", "partitions", "affects")
    for step in steps:
        entry = _plan_entry(lake, step)
        idle = not step.is_work
        why = "; ".join(step.reasons)
        if step.is_code_changed:
            why += "; its code changed since the last commit"
        style = "bold red" if step.is_breaking else "dim" if idle else ""
        cells = [step.table, "-" if isinstance(step, Idle) else step.action, why]
        cells += ["", ""] if idle else [printing.number(entry["rows"]), printing.size(entry["bytes"])]
        shown.add_row(
            *cells,
            "" if idle else entry["partitions_shown"],
            "" if idle else ", ".join(entry["downstream"]),
            style=style,
        )
    console.print(shown)
    _differences(console, lake, steps)
    if any(step.is_code_changed for step in steps):
        console.print(
            "\nWhere code changed, rows already written stay as they are; --full-refresh writes them anew.",
            highlight=False,
        )
    show_lake.strays(console, lake)
    work = [step for step in steps if step.is_work and not step.is_breaking]
    console.print(
        f"\n{len(work)} of {len(steps)} tables would be written." if work else "\nNothing to do.", highlight=False
    )
    if broken := [step.table for step in steps if step.is_breaking]:
        names = ", ".join(broken)
        console.print(
            f"[bold red]Breaking schema change[/] in {names}: run with --full-refresh --select {broken[0]}+ or take it back."
        )


def _differences(console: Console, lake: Lake, steps: Sequence[Step]) -> None:
    """What differs from the declared columns, and who reads what is not as it was."""
    for step in steps:
        for text in (*step.changes.describe(), *(step.drift if isinstance(step, Ingest) else ())):
            style = "bold red" if step.is_breaking else "yellow"
            console.print(f"[{style}]columns[/] {step.table} {printing.literally(text)}", highlight=False)
        for column, readers in _readers(lake, step).items():
            said = f"{', '.join(readers)} read{'s' if len(readers) == 1 else ''} it" if readers else "no table reads it"
            console.print(f"        {step.table}.{column}: {said}", highlight=False)
    if any(step.changes.added for step in steps):
        console.print(
            "Added columns are null in rows already written; --full-refresh writes them anew.", highlight=False
        )


def _readers(lake: Lake, step: Step) -> dict[str, list[str]]:
    """The tables that name a column of this one which is not as it was, by column."""
    tables = [
        t for t in lake.graph.declared.values() if isinstance(t, Table) and step.table in lake.graph.inputs(t.name)
    ]
    return {c: [t.name for t in tables if names_column(t, c)] for c in step.columns_changed}


def _plan_entry(lake: Lake, step: Step) -> dict[str, Any]:
    partitions = [str(day) for day in step.partitions] if isinstance(step, UpdatePartitions) else None
    files, drift = (step.files, step.drift) if isinstance(step, Ingest) else ((), ())
    rows, size = (step.rows, step.bytes) if isinstance(step, WriteStep) else (0, 0)
    known = not step.after
    shown = "" if partitions is None else f"{len(partitions)}: {partitions[0]} to {partitions[-1]}"
    return {
        "table": step.table, "action": step.action, "reasons": list(step.reasons), "after": list(step.after),
        "files": [one.path for one in files], "rows": rows if known else None, "bytes": size if known else None,
        "inputs": {n: {"from": step.since.get(n), "to": one.version} for n, one in step.inputs.items()},
        "partitions": partitions, "partitions_shown": shown if known else "known after its inputs",
        "schema_changes": list(step.changes.describe()), "drift": list(drift), "readers": _readers(lake, step), "breaking": step.is_breaking, "code_changed": step.is_code_changed,
        "downstream": list(lake.graph.downstream(step.table)),
    }  # fmt: skip
