"""What the terminal shows of taking back a run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from lakehouse.cli.render.printing import grid, literally
from lakehouse.plan.rollback import Undo

_SHOWN = 20


def plan(console: Console, planned: Undo) -> None:
    """Which tables go back to what, and what the next run then does."""
    if not planned.tables:
        console.print(f"Run {planned.run} is taken back already: `lakehouse run` goes on from there.", highlight=False)
        return
    shown = grid("table", ">version", ">goes back to", ">rows now", ">rows then")
    for one in planned.tables:
        to = "nothing" if one.to is None else str(one.to)
        shown.add_row(one.table, str(one.now), to, f"{one.rows:,}", f"{one.rows_then:,}")
    console.print(shown)
    for name in planned.done:
        console.print(f"{name} has gone back already.", highlight=False)
    _files(console, "The next run ingests again (take out of the landing zone what it should not):", planned.files)
    _files(
        console, "[yellow]No longer in the landing zone as ingested, so their rows do not come back:[/]", planned.gone
    )
    for name, why in planned.anew.items():
        console.print(f"The next run makes {name} anew: {why}.", highlight=False)


def _files(console: Console, said: str, paths: Sequence[str]) -> None:
    if not paths:
        return
    console.print(said, highlight=False)
    for path in paths[:_SHOWN]:
        console.print(f"  landing/{literally(path)}", highlight=False, soft_wrap=True)
    if len(paths) > _SHOWN:
        console.print(f"  ... and {len(paths) - _SHOWN:,} more", highlight=False)


def done(console: Console, planned: Undo, run: str) -> None:
    """What was done."""
    count = len(planned.tables)
    tables = f"{count} table{'s' if count != 1 else ''}"
    console.print(f"Run {planned.run} is taken back, by run {run}: {tables}. `lakehouse run` goes on.", highlight=False)
