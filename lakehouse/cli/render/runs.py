"""What the commands print of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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

from lakehouse.cli.render.printing import literally
from lakehouse.runs.scheduler import Report, Result, Watcher
from lakehouse.writes.table_writer import Outcome

if TYPE_CHECKING:
    pass

STATUS_STYLE = {"written": "green", "unchanged": "dim", "failed": "bold red", "skipped": "yellow", "blocked": "yellow"}


@contextmanager
def progress(console: Console, names: Sequence[str]) -> Iterator[Watcher]:
    """Tell of a run while it works: what is under way, and a line for each table that is done."""
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    )
    with bar:
        task = bar.add_task("taking the lake, starting Spark", total=len(names))
        under_way: list[str] = []

        def started(table: str) -> None:
            under_way.append(table)
            bar.update(task, description=f"writing {', '.join(under_way)}")

        def done(result: Result) -> None:
            if result.table in under_way:
                under_way.remove(result.table)
            if result.status != "unchanged":
                console.print(_line(result), highlight=False)
            bar.update(task, advance=1, description=f"writing {', '.join(under_way)}" if under_way else "deciding")

        yield Watcher(started, done)


@contextmanager
def sending(console: Console, files: Sequence[Path]) -> Iterator[Callable[[int], None]]:
    """Tell of the bytes that go to a bucket."""
    columns = (TextColumn("delivering"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=sum(file.stat().st_size for file in files if file.is_file()))
        yield lambda count: bar.update(task, advance=count)


def _line(result: Result) -> str:
    style = STATUS_STYLE[result.status]
    said = f"  [{style}]{result.status:9}[/] {result.table:24} {outcome(result.outcome)}"
    return f"{said} [dim]{result.seconds:.1f} s[/]" if result.seconds else said


def outcome(done: Outcome | None) -> str:
    """What became of a table's rows, in words."""
    if done is None:
        return ""
    parts = [f"{count:,} {name}" for name, count in done.rows.items() if count or name == "written"]
    if done.partitions is not None:
        parts.append(f"{done.partitions} partition{'s' if done.partitions != 1 else ''}")
    if done.rejected_files:
        parts.append(f"{len(done.rejected_files)} file{'s' if len(done.rejected_files) != 1 else ''} rejected")
    return ", ".join(parts)


def report(console: Console, done: Report, logged: Path | None) -> None:
    """What a run did: its failures, its rejects, its length."""
    counts = {status: sum(r.status == status for r in done.results) for status in STATUS_STYLE}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    console.print(f"Run {done.run}: {said} in {done.seconds:.1f} s.", highlight=False)
    for result in done.results:
        for one in result.outcome.rejected_files if result.outcome else ():
            console.print(f"[yellow]rejected[/] {literally(one.path)}: {literally(one.reason)}", highlight=False)
        for text in result.outcome.contract if result.outcome else ():
            console.print(f"[yellow]columns[/] {result.table} {literally(text)}", highlight=False)
        for rule, rows in result.outcome.warnings.items() if result.outcome else ():
            console.print(f"[yellow]warning[/] {result.table}: {rows:,} rows break {rule}", highlight=False)
        if result.outcome and result.outcome.rows.get("quarantined"):
            console.print(
                f"[yellow]quarantined[/] {result.table}: {result.outcome.rows['quarantined']:,} rows", highlight=False
            )
        if result.error:
            console.print(f"[bold red]{result.status}[/] ", end="", highlight=False)
            console.print(result.failure(), markup=False, highlight=False)
    if done.failed:
        console.print(
            f"Its log: {logged}. What succeeded stays; `lakehouse run` resumes with what is missing.",
            highlight=False,
            soft_wrap=True,
        )
