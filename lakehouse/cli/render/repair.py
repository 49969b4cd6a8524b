"""Renderer of `repair`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse.cli.render.printing import escape_text, pluralize

if TYPE_CHECKING:
    from rich.console import Console

    from lakehouse.quality.repair import ManifestRepair, RepairPlan


def print_repair(console: Console, plan: RepairPlan, *, is_done: bool) -> None:
    """Print what is missing in the lake, and what the repair rebuilds."""
    for repair in plan.manifests:
        _print_manifest(console, repair)
    for table, path in (plan.quarantines or {}).items():
        _print_line(
            console,
            f"[bold red]missing[/] {escape_text(path)}: the quarantine of {table} cannot be rebuilt. Restore the "
            f"folder from a backup, or rebuild the table with `lakehouse run --full-refresh --select {table}+`.",
        )
    count = pluralize(len(plan.writable), "manifest")
    if not plan.manifests and not plan.quarantines:
        _print_line(console, "Nothing is missing.")
    elif is_done:
        _print_line(console, f"{count} written.")
    else:
        _print_line(console, f"Nothing was changed. `lakehouse repair --yes` writes {count}.")


def _print_manifest(console: Console, repair: ManifestRepair) -> None:
    path = escape_text(repair.path)
    if repair.problems:
        _print_line(console, f"[bold red]missing[/] {path} cannot be rebuilt:")
    else:
        files = pluralize(len(repair.manifest.files), "file")
        full = ", which replace all earlier ones" if repair.manifest.is_full else ""
        _print_line(console, f"[green]rebuild[/] {path}: {files}{full}")
    for text in (*repair.problems, *repair.notes):
        _print_line(console, f"  {escape_text(text)}.")
    if repair.problems:
        _print_line(console, "  Restore these files as delivered, with their times, or restore the manifest.")


def _print_line(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
