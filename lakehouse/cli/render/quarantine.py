"""What the terminal shows of the quarantine, and of the accounting."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lakehouse.cli.render.printing import emit, grid, literally
from lakehouse.quality import quarantine

if TYPE_CHECKING:
    from lakehouse.quality.reconcile import Account
    from lakehouse.writes.replay import Replayed


def summaries(console: Console, found: Sequence[quarantine.Summary], as_json: bool) -> None:
    """What waits in the quarantine of each table."""
    if as_json:
        emit(console, [asdict(one) for one in found])
        return
    shown = grid("table", ">waiting", "rules broken", ">replayed", ">discarded", "newest (UTC)")
    for one in found:
        rules = ", ".join(f"{count:,} {rule}" for rule, count in sorted(one.rules.items(), key=lambda r: -r[1]))
        counts = [f"{one.outcomes.get(name, 0):,}" for name in ("replayed", "discarded")]
        shown.add_row(one.table, f"{one.waiting:,}", rules, *counts, one.newest[:16].replace("T", " "))
    console.print(shown if found else "No row was ever set aside.")


def rows(
    console: Console, found: Sequence[dict[str, Any]], columns: Collection[str], limit: int, as_json: bool
) -> None:
    """The rejects that wait, as they were landed."""
    if as_json:
        emit(console, [{**one, "original": json.loads(one["original"])} for one in found])
        return
    shown = grid("file", ">row", "rules broken", "as landed")
    for one in found[:limit]:
        said = ", ".join(f"{name}={value!r}" for name, value in quarantine.values(one["original"], columns).items())
        file = literally(one["_source_file"] or "")
        shown.add_row(file, str(one["_row"] or ""), "\n".join(one["rules"]), literally(said))
    console.print(shown)
    if len(found) > limit:
        console.print(f"... {len(found) - limit:,} more rows; --limit, or --json for all of them.", highlight=False)


def accounts(console: Console, found: Sequence[Account], as_json: bool) -> None:
    """Where each table's rows are, and what does not add up."""
    if as_json:
        emit(console, [asdict(one) for one in found])
        return
    shown = grid("table", ">came in", "where they are", "")
    for one in found:
        parts = ", ".join(f"{count:,} {name}" for name, count in one.parts.items())
        unseen = f"; {one.unseen:,} files were overwritten or taken away, and not counted again" if one.unseen else ""
        state = "[bold red]differs[/]" if one.differences else "[green]adds up[/]"
        shown.add_row(one.table, f"{one.came_in:,}", parts + unseen, state)
    console.print(shown)
    for one in found:
        for said in one.differences:
            console.print(f"[bold red]difference[/] {one.table} {literally(said)}", highlight=False, soft_wrap=True)


def replayed(console: Console, done: Replayed, dry: bool) -> None:
    """What became of a table's rejects."""
    if not (done.replayed or done.discarded or done.waits):
        console.print(f"Nothing waits in the quarantine of {done.table}.")
        return
    would = "would be " if dry else ""
    if done.made_anew and dry:
        console.print(
            f"{done.table} would be made anew from all its rows, with {done.replayed:,} rejects among them.",
            highlight=False,
        )
        return
    console.print(f"{done.table}: {done.replayed:,} {would}replayed.", highlight=False)
    for reason, count in (done.discarded or {}).items():
        console.print(f"  {count:,} {would}discarded: {reason}", highlight=False)
    for rule, count in (done.waits or {}).items():
        console.print(f"  {count:,} still wait: they break {rule}", highlight=False)
