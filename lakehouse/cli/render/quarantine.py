"""Renderers of the quarantine and of `reconcile`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from lakehouse.cli.render.printing import escape_text, make_grid, print_json, shorten
from lakehouse.quality import quarantine

if TYPE_CHECKING:
    from lakehouse.deltalog.digests import Verification
    from lakehouse.quality.reconciliation import Reconciliation
    from lakehouse.writes.replay import ReplayResult


# Characters of one value, and of all values in a row.
VALUE_WIDTH: Final = 60
CELL_WIDTH: Final = 600


def print_summaries(console: Console, summaries: Sequence[quarantine.QuarantineSummary], as_json: bool) -> None:
    """Print the number of quarantined rows of each table by rule."""
    if as_json:
        print_json(console, [asdict(summary) for summary in summaries])
        return
    if not summaries:
        console.print("No row was ever quarantined.")
        return
    grid = make_grid("table", ">quarantined", "rules violated", ">replayed", ">discarded", "newest (UTC)")
    for summary in summaries:
        by_count = sorted(summary.rules.items(), key=lambda item: -item[1])
        rules = escape_text(", ".join(f"{count:,} {rule}" for rule, count in by_count))
        outcomes = [f"{summary.outcomes.get(name, 0):,}" for name in ("replayed", "discarded")]
        newest = summary.last_quarantined_at[:16].replace("T", " ")
        grid.add_row(summary.table, f"{summary.pending:,}", rules, *outcomes, newest)
    console.print(grid)


def print_rejects(
    console: Console,
    table: str,
    rejects: Sequence[dict[str, Any]],
    columns: Collection[str],
    limit: int,
    as_json: bool,
) -> None:
    """Print a table's quarantined rows as they were landed. Long values are cut; the JSON has them whole."""
    if as_json:
        print_json(console, [{**reject, "original": json.loads(reject["original"])} for reject in rejects])
        return
    if not rejects:
        console.print(f"{table}: no such row is quarantined. `lakehouse quarantine list` counts rows by rule.")
        return
    grid = make_grid("file", ">row", "run", "rules violated", "as landed")
    for reject in rejects[:limit]:
        values = quarantine.parse_original(reject["original"], columns)
        text = ", ".join(f"{name}={shorten(repr(value), VALUE_WIDTH)}" for name, value in values.items())
        cells = [reject["_source_file"] or "", str(reject["_row"] or ""), reject["run"] or ""]
        rules = "\n".join(escape_text(shorten(rule, CELL_WIDTH)) for rule in reject["rules"])
        cells = [escape_text(shorten(cell, VALUE_WIDTH)) for cell in cells]
        grid.add_row(*cells, rules, escape_text(shorten(text, CELL_WIDTH)))
    console.print(grid)
    if len(rejects) > limit:
        console.print(f"... {len(rejects) - limit:,} more rows; --limit, or --json for all of them.", highlight=False)


def print_accounts(
    console: Console,
    accounts: Sequence[Reconciliation],
    verifications: Mapping[str, Verification] | None,
    as_json: bool,
) -> None:
    """Print the places of each table's rows, the compared files if there are any, and the differences."""
    if as_json:
        documents: Any = [asdict(account) for account in accounts]
        if verifications is not None:
            files = [{"table": table, **asdict(result)} for table, result in verifications.items()]
            documents = {"rows": documents, "files": files}
        print_json(console, documents)
        return
    grid = make_grid("table", ">rows in", "where they are", "")
    for account in accounts:
        parts = ", ".join(f"{count:,} {name}" for name, count in account.row_counts.items())
        if account.uncounted_files:
            parts += f"; {account.uncounted_files:,} files were overwritten or deleted, and not counted again"
        state = "[bold red]differs[/]" if account.differences else "[green]adds up[/]"
        grid.add_row(account.table, f"{account.input_rows:,}", parts, state)
    console.print(grid)
    _print_differences(console, {account.table: account.differences for account in accounts})
    if verifications is not None:
        _print_verifications(console, verifications)


def _print_verifications(console: Console, verifications: Mapping[str, Verification]) -> None:
    grid = make_grid("table", ">files compared", ">without digest", "")
    for table, result in verifications.items():
        state = "[bold red]differs[/]" if result.differences else "[green]unchanged[/]"
        grid.add_row(table, f"{result.verified_files:,}", f"{result.unverified_files:,}", state)
    console.print(grid)
    _print_differences(console, {table: result.differences for table, result in verifications.items()})


def _print_differences(console: Console, differences: Mapping[str, Sequence[str]]) -> None:
    for table, texts in differences.items():
        for text in texts:
            line = f"[bold red]difference[/] {table} {escape_text(text)}"
            console.print(line, highlight=False, soft_wrap=True)


def print_replay(console: Console, result: ReplayResult, dry_run: bool) -> None:
    """Print the outcomes of a table's quarantined rows."""
    if not (result.replayed or result.discarded or result.blocked):
        console.print(f"{result.table}: no quarantined row to replay.")
        return
    if result.is_rebuilt and dry_run:
        text = f"{result.table} would be rebuilt from all its rows, {result.replayed:,} quarantined rows included."
        console.print(text, highlight=False)
        return
    would = "would be " if dry_run else ""
    console.print(f"{result.table}: {result.replayed:,} {would}replayed.", highlight=False)
    for reason, count in (result.discarded or {}).items():
        console.print(f"  {count:,} {would}discarded: {reason}", highlight=False)
    for rule, count in (result.blocked or {}).items():
        console.print(f"  {count:,} remain quarantined: they violate {escape_text(rule)}", highlight=False)
