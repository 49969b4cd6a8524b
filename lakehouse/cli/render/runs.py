"""Renderers of a run: its progress and its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from lakehouse.cli.render.lake import print_foreign_commits
from lakehouse.cli.render.printing import escape_text, pluralize
from lakehouse.runs.report import RunListener, RunReport, TableResult
from lakehouse.writes.outcome import Outcome

STATUS_STYLE: Final = {
    "written": "green",
    "unchanged": "dim",
    "failed": "bold red",
    "skipped": "yellow",
    "blocked": "yellow",
}


@contextmanager
def show_progress(console: Console, names: Sequence[str]) -> Iterator[RunListener]:
    """Show a run's progress: the tables in progress, and a line for each finished table."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("locking the lake, starting Spark", total=len(names))
        in_progress: list[str] = []

        def on_start(table: str) -> None:
            in_progress.append(table)
            bar.update(task, description=f"writing {', '.join(in_progress)}")

        def on_end(result: TableResult) -> None:
            if result.table in in_progress:
                in_progress.remove(result.table)
            if result.status != "unchanged":
                console.print(_format_result(result), highlight=False)
            bar.update(task, advance=1, description=f"writing {', '.join(in_progress)}" if in_progress else "planning")

        yield RunListener(on_start, on_end)


@contextmanager
def show_upload(console: Console, files: Sequence[Path]) -> Iterator[Callable[[int], None]]:
    """Show the progress of an upload to a bucket.

    Yields:
        A function that takes the number of bytes just sent.
    """
    columns = (TextColumn("delivering"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=sum(file.stat().st_size for file in files if file.is_file()))
        yield lambda count: bar.update(task, advance=count)


def _format_result(result: TableResult) -> str:
    style = STATUS_STYLE[result.status]
    text = f"  [{style}]{result.status:9}[/] {result.table:24} {format_outcome(result.outcome)}"
    return f"{text} [dim]{result.seconds:.1f} s[/]" if result.seconds else text


def format_outcome(outcome: Outcome | None) -> str:
    """Return a table's row counts by outcome as text."""
    if outcome is None:
        return ""
    parts = [f"{count:,} {name}" for name, count in outcome.rows.items() if count or name == "written"]
    if outcome.partitions is not None:
        parts.append(pluralize(outcome.partitions, "partition"))
    if outcome.rejected_files:
        parts.append(f"{pluralize(len(outcome.rejected_files), 'file')} rejected")
    return ", ".join(parts)


def print_report(console: Console, report: RunReport, log: Path | None) -> None:
    """Print a run's result: counts by status, rejected files, warnings, failures."""
    counts = {status: sum(result.status == status for result in report.results) for status in STATUS_STYLE}
    text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    console.print(f"Run {report.run}: {text} in {report.seconds:.1f} s.", highlight=False)
    for result in report.results:
        print_foreign_commits(console, result.table, result.step.foreign_commits if result.step else ())
        if result.outcome:
            _print_outcome(console, result.table, result.outcome)
        if result.error:
            console.print(f"[bold red]{result.status}[/] ", end="", highlight=False)
            console.print(escape_text(result.describe_failure()), highlight=False)
    if report.has_failed:
        console.print(
            f"Log: {log}. Written tables are kept; `lakehouse run` resumes with the others.",
            highlight=False,
            soft_wrap=True,
        )


def _print_outcome(console: Console, table: str, outcome: Outcome) -> None:
    for file in outcome.rejected_files:
        console.print(f"[yellow]rejected[/] {escape_text(file.path)}: {escape_text(file.reason)}", highlight=False)
    for text in outcome.contract:
        console.print(f"[yellow]columns[/] {table} {escape_text(text)}", highlight=False)
    for rule, count in outcome.warnings.items():
        console.print(f"[yellow]warning[/] {table}: {count:,} rows violate {escape_text(rule)}", highlight=False)
    if quarantined := outcome.rows.get("quarantined"):
        console.print(f"[yellow]quarantined[/] {table}: {quarantined:,} rows", highlight=False)
