"""What the commands print: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table as Grid

from lakehouse import data_docs, intervals, log, query
from lakehouse.declare import Declared, Replace, Source, Table
from lakehouse.errors import DeclarationError
from lakehouse.features import METRICS
from lakehouse.plan import Lake, Request, decide
from lakehouse.run import Report, Result, Watcher
from lakehouse.storage import relative
from lakehouse.work import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse.modeling import Scored
    from lakehouse.registering import TrainResult

STATUS_STYLE = {"written": "green", "unchanged": "dim", "failed": "bold red", "skipped": "yellow", "waits": "yellow"}
UNITS = ("B", "kB", "MB", "GB", "TB")


def emit(console: Console, value: Any) -> None:
    """Print JSON, unwrapped."""
    console.print(json.dumps(value, default=_plain, indent=1), soft_wrap=True, markup=False, highlight=False)


def _plain(value: Any) -> Any:
    """A value that JSON does not know: decimals (such as DuckDB's sums of integers) as numbers, times as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def grid(*columns: str, title: str = "") -> Grid:
    """An empty grid; columns that begin with > are set to the right."""
    made = Grid(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        right = column.startswith(">")
        made.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right or not number
        )
    return made


def size(count: float | None) -> str:
    """Bytes in words."""
    if count is None:
        return "unknown"
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


def number(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


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


def literally(text: str) -> str:
    """Text from outside: no markup in it, and nothing that a terminal cannot be sent."""
    return escape(text.encode("utf-8", "replace").decode())


def status(console: Console, lake: Lake, as_json: bool) -> None:
    """Every declared table's state."""
    lake = lake.still()
    entries = [_status_entry(lake, name) for name in lake.graph.declared]
    if as_json:
        emit(console, entries)
        return
    shown = grid(
        "table", "state", "last written (UTC)", ">written", ">unchanged", ">superseded", ">quarantined", "next"
    )
    for one in entries:
        rows = one["rows"]
        cells = [f"{rows[k]:,}" if k in rows else "" for k in ("written", "unchanged", "superseded", "quarantined")]
        shown.add_row(one["table"], one["state"], one["at"][:16].replace("T", " "), *cells, one["pending"])
    console.print(shown)
    for one in entries:
        for rejected in one["rejected_files"]:
            said = f"{literally(rejected['path'])}: {literally(rejected['reason'])}"
            console.print(f"[yellow]rejected[/] {said}", highlight=False)
    if any(one["rejected_files"] for one in entries):
        console.print("Mend such a file and land it again under its name, or take it away.", highlight=False)
    for one in entries:
        for gap in one["gaps"]:
            _gap(console, one["table"], gap)
    strays(console, lake)
    if lake.suites and data_docs.index(lake.suites.data_docs).is_file():
        docs = data_docs.index(lake.suites.data_docs)
        console.print(f"Data Docs: {literally(docs.as_uri())}", highlight=False, soft_wrap=True)


def _gap(console: Console, table: str, gap: Mapping[str, Any]) -> None:
    span = gap["first"] if gap["first"] == gap["last"] else f"{gap['first']} to {gap['last']}"
    many = f"{gap['partitions']} partition{'s' if gap['partitions'] > 1 else ''}"
    why = (
        f"{', '.join(gap['known_to'])} has rows of them"
        if gap["known_to"]
        else "what it is made from has no rows of them either"
    )
    console.print(f"[yellow]gap[/] {table} {span}: {many} without rows; {why}", highlight=False)


def strays(console: Console, lake: Lake) -> None:
    """What lies in the landing zone and no source reads."""
    for name in lake.strays():
        console.print(f"[yellow]unread[/] landing/{literally(name)}: no source reads this", highlight=False)


def _status_entry(lake: Lake, name: str) -> dict[str, Any]:
    step = decide(lake, name, Request())
    opened = lake.log(name)
    entry = opened.last if opened else None
    record = entry.record if entry else None
    declared = lake.graph.declared[name]
    landing = lake.landing(declared) if isinstance(declared, Source) else None
    rejected = landing.rejected(landing.history()) if landing else []
    return {
        "table": name, "state": "empty" if record is None else "behind" if step.works else "current",
        "version": opened.version if opened else None, "run": record.run if record else None,
        "at": record.at if record else "", "batch": record.batch if record else 0,
        "generation": record.generation if record else 0, "rows": entry.rows if entry else {},
        "pending": "; ".join(step.reasons) if step.works or step.action == "waits" else "",
        "rejected_files": [{"path": r.path, "reason": r.reason} for r in rejected], "gaps": _gaps(lake, declared, opened),
    }  # fmt: skip


def _gaps(lake: Lake, declared: Declared, opened: log.TableLog | None) -> list[dict[str, Any]]:
    if opened is None or not isinstance(declared, Table) or not isinstance(declared.write, Replace):
        return []
    found = intervals.gaps(declared, opened, {name: lake.log(name) for name in lake.graph.inputs(declared.name)})
    return [{**asdict(one), "first": str(one.first), "last": str(one.last)} for one in found]


def tables(console: Console, lake: Lake, as_json: bool) -> None:
    """The tables that the lake holds, by Delta's own counts, and those declared that it does not hold yet."""
    there = query.tables(lake.root / "lake")
    entries = []
    for name in dict.fromkeys([*lake.graph.declared, *there]):
        opened = log.open_log(there[name]) if name in there else None
        entries.append(_table_entry(lake, name, opened))
    if as_json:
        emit(console, entries)
        return
    shown = grid("table", "written by", ">rows", ">size", ">files", ">version", "path")
    for one in entries:
        counts = (
            [f"{one['rows']:,}", size(one["bytes"]), str(one["files"]), str(one["version"])]
            if one["path"]
            else [""] * 4
        )
        shown.add_row(one["table"], one["write"], *counts, one["path"] or "not written yet")
    console.print(shown)


def _table_entry(lake: Lake, name: str, opened: log.TableLog | None) -> dict[str, Any]:
    declared = lake.graph.declared.get(name)
    write = (
        "" if declared is None else "landing" if isinstance(declared, Source) else type(declared.write).__name__.lower()
    )
    return {
        "table": name, "write": write, "rows": opened.rows() if opened else None, "bytes": opened.bytes() if opened else None,
        "files": opened.files() if opened else None, "version": opened.version if opened else None,
        "path": relative(opened.path, lake.root) if opened else None,
        "columns": opened.columns() if opened else dict(declared.columns) if declared else {},
    }  # fmt: skip


def history(console: Console, lake: Lake, table: str, limit: int, as_json: bool) -> None:
    """A table's newest versions.

    Raises:
        DeclarationError: there is no such table.
    """
    path = query.tables(lake.root / "lake").get(table)
    opened = log.open_log(path) if path else None
    if opened is None:
        known = ", ".join(dict.fromkeys([*lake.graph.declared, *query.tables(lake.root / "lake")]))
        raise DeclarationError(f"{table!r} has no history: it is not written yet, or not one of {known}.")
    entries = opened.entries(limit)
    if as_json:
        emit(console, [{**asdict(one), "record": asdict(one.record) if one.record else None} for one in entries])
        return
    shown = grid(">version", "when (UTC)", "operation", "run", ">batch", "rows", "inputs", "code", "columns")
    for one in entries:
        record = one.record
        undoes = f" (undoes {record.undoes})" if record and record.undoes else ""
        what = [one.operation + undoes, record.run if record else "", str(record.batch) if record else ""]
        rows = ", ".join(f"{v:,} {k}" for k, v in one.rows.items() if v) or "0 written"
        inputs = ", ".join(f"{n}@{c.version}" for n, c in record.inputs.items()) if record else ""
        code = f"{record.revision} {record.definition}".strip() if record else ""
        columns = literally("; ".join(record.contract)) if record else ""
        shown.add_row(str(one.version), f"{one.at:%Y-%m-%d %H:%M:%S}", *what, rows, inputs, code, columns)
    console.print(shown)


def rows(console: Console, result: pa.Table, as_json: bool, most: int = 100) -> None:
    """A query's result."""
    if as_json:
        emit(console, result.to_pylist())
        return
    numeric = [str(f.type).startswith(("int", "uint", "double", "float", "decimal")) for f in result.schema]
    shown = grid(*[f">{name}" if right else name for name, right in zip(result.column_names, numeric, strict=True)])
    for row in result.slice(0, most).to_pylist():
        shown.add_row(*[_cell(value) for value in row.values()])
    console.print(shown)
    if result.num_rows > most:
        console.print(f"... {result.num_rows - most:,} more rows; --json prints all of them.", highlight=False)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return str(value)


def metrics_grid(named: Mapping[str, Mapping[str, float]]) -> Grid:
    """Metrics side by side: one row for each model."""
    shown = grid("", ">ROC AUC", ">average precision", ">Brier (lower is better)")
    for name, metrics in named.items():
        shown.add_row(name, *[f"{metrics[m]:.4f}" for m in METRICS])
    return shown


def trained(console: Console, result: TrainResult) -> None:
    """How a new model does, and whether it became champion."""
    console.print(metrics_grid({"model": result.metrics, "schedule only": result.baseline}))
    console.print(
        f"{result.model_name} version {result.model_version} is {result.alias}: {result.reason}", highlight=False
    )


def scored(console: Console, result: Scored) -> None:
    """What was scored, and how well where the labels are known."""
    console.print(
        f"{result.rows:,} rows from {result.since} to {result.until} scored by {result.model} version {result.version} "
        f"({result.alias}): {result.written:,} written to {result.table}, {result.rows - result.written:,} there already; how they did, "
        f"by day: {result.quality_written:,} rows to {result.quality_table}.",
        highlight=False,
        soft_wrap=True,
    )
    if result.report:
        console.print(metrics_grid({"model": result.report.metrics, "schedule only": result.report.baseline}))
