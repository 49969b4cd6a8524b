"""Renderers of the lake: the state of its tables, their versions, their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console

from lakehouse.catalog import Catalog
from lakehouse.cli.render.printing import escape_text, format_size, make_grid, pluralize, print_json
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.deltalog import sql, table_log
from lakehouse.errors import DeclarationError
from lakehouse.plan import backfill
from lakehouse.plan.planner import decide_step
from lakehouse.plan.steps import Blocked, ForeignCommit, Ingest, RunRequest
from lakehouse.quality import report
from lakehouse.quality.checks import find_unused_suites
from lakehouse.quality.findings import Finding
from lakehouse.storage.location import get_relative_path

COUNTS: Final = ("written", "unchanged", "superseded", "quarantined")
HISTORY_COLUMNS: Final = (
    ">version",
    "when (UTC)",
    "operation",
    "run",
    ">batch",
    "rows",
    "inputs",
    "code",
    "columns",
)


def print_status(console: Console, catalog: Catalog, as_json: bool) -> None:
    """Print every declared table's state."""
    catalog = catalog.cache_logs()
    entries = [describe_status(catalog, name) for name in catalog.graph.declarations]
    if as_json:
        print_json(console, entries)
        return
    print_findings(console, [finding for entry in entries if (finding := _make_finding(entry))])
    grid = make_grid("table", "state", "last written (UTC)", *[f">{name}" for name in COUNTS], "next")
    for entry in entries:
        counts = [f"{entry['rows'][name]:,}" if name in entry["rows"] else "" for name in COUNTS]
        at = entry["at"][:16].replace("T", " ")
        grid.add_row(entry["table"], entry["state"], at, *counts, escape_text(entry["pending"]))
    console.print(grid)
    rejected = [file for entry in entries for file in entry["rejected_files"]]
    for file in rejected:
        text = f"{escape_text(file['path'])}: {escape_text(file['reason'])}"
        console.print(f"[yellow]rejected[/] {text}", highlight=False)
    if rejected:
        console.print("Fix each rejected file and land it again under its name, or delete it.", highlight=False)
    for entry in entries:
        print_foreign_commits(console, entry["table"], [ForeignCommit(**commit) for commit in entry["foreign_commits"]])
        for gap in entry["gaps"]:
            _print_gap(console, entry["table"], gap)
    print_unread(console, catalog)
    print_unused_suites(console, catalog)
    if catalog.suites and report.get_index_path(catalog.suites.data_docs).is_file():
        docs = report.get_index_path(catalog.suites.data_docs)
        console.print(f"Data Docs: {escape_text(docs.as_uri())}", highlight=False, soft_wrap=True)


def _make_finding(entry: Mapping[str, Any]) -> Finding | None:
    finding = Finding(entry["table"], len(entry["rejected_files"]), entry["rows"].get("quarantined", 0))
    return finding if finding != Finding(entry["table"]) else None


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print the tables with rejected files or quarantined rows."""
    for finding in findings:
        console.print(f"[bold yellow]attention[/] {escape_text(finding.describe())}", highlight=False)
    if any(finding.quarantined_rows for finding in findings):
        console.print("`lakehouse quarantine show TABLE` shows quarantined rows.", highlight=False)


def _print_gap(console: Console, table: str, gap: Mapping[str, Any]) -> None:
    span = gap["first"] if gap["first"] == gap["last"] else f"{gap['first']} to {gap['last']}"
    count = pluralize(gap["partition_count"], "partition")
    inputs = ", ".join(gap["inputs_with_rows"])
    reason = f"rows exist in {inputs}" if inputs else "its inputs have no rows for them either"
    console.print(f"[yellow]gap[/] {table} {span}: {count} without rows; {reason}", highlight=False)


def print_foreign_commits(console: Console, table: str, commits: Iterable[ForeignCommit]) -> None:
    """Print the commits of other writers that a step of the table names."""
    for commit in commits:
        reader = "" if commit.table == table else f"; {table} reads it"
        console.print(f"[yellow]foreign[/] {escape_text(commit.describe())}{reader}", highlight=False)


def print_unread(console: Console, catalog: Catalog) -> None:
    """Print the folders of the landing zone that no source reads."""
    for name in catalog.find_unread_folders():
        console.print(f"[yellow]unread[/] landing/{escape_text(name)}: no source reads this", highlight=False)


def print_unused_suites(console: Console, catalog: Catalog) -> None:
    """Print the suites that belong to no table."""
    for problem in find_unused_suites(catalog):
        console.print(f"[yellow]check[/] {escape_text(problem.text)}", highlight=False)


def describe_status(catalog: Catalog, name: str) -> dict[str, Any]:
    """Return a table's state as a document."""
    step = decide_step(catalog, name, RunRequest())
    log = catalog.read_log(name)
    last = log.last if log else None
    record = last.record if last else None
    declared = catalog.graph.declarations[name]
    landing = catalog.get_landing_zone(declared) if isinstance(declared, Source) else None
    rejected = landing.find_rejected_files(landing.read_history()) if landing else []
    if landing and isinstance(step, Ingest):
        rejected += landing.reject_by_path(step.files)
    return {
        "table": name,
        "state": "empty" if record is None else "behind" if step.has_work else "current",
        "version": log.version if log else None,
        "run": record.run if record else None,
        "at": record.committed_at if record else "",
        "batch": record.batch if record else 0,
        "generation": record.generation if record else 0,
        "rows": last.rows if last else {},
        "foreign_commits": [asdict(commit) for commit in step.foreign_commits],
        "pending": "; ".join(step.reasons) if step.has_work or isinstance(step, Blocked) else "",
        "rejected_files": [{"path": file.path, "reason": file.reason} for file in rejected],
        "gaps": _list_gaps(catalog, declared, log),
    }


def _list_gaps(catalog: Catalog, declared: Declaration, log: table_log.TableLog | None) -> list[dict[str, Any]]:
    if log is None or not isinstance(declared, Table):
        return []
    gaps = backfill.find_gaps(
        declared, log, {name: catalog.read_log(name) for name in catalog.graph.list_inputs(declared.name)}
    )
    return [{**asdict(gap), "first": str(gap.first), "last": str(gap.last)} for gap in gaps]


def print_tables(console: Console, catalog: Catalog, as_json: bool) -> None:
    """Print the tables of the lake by Delta's own counts, and the declared tables not written yet."""
    paths = sql.find_tables(catalog.root / "lake")
    entries = []
    for name in dict.fromkeys([*catalog.graph.declarations, *paths]):
        log = table_log.open_log(paths[name]) if name in paths else None
        entries.append(_describe_table(catalog, name, log))
    if as_json:
        print_json(console, entries)
        return
    grid = make_grid("table", "written by", ">rows", ">size", ">files", ">version", "path")
    for entry in entries:
        counts = [""] * 4
        if entry["path"]:
            counts = [f"{entry['rows']:,}", format_size(entry["bytes"]), str(entry["files"]), str(entry["version"])]
        path = escape_text(entry["path"] or "not written yet")
        grid.add_row(escape_text(entry["table"]), entry["write"], *counts, path)
    console.print(grid)


def _describe_table(catalog: Catalog, name: str, log: table_log.TableLog | None) -> dict[str, Any]:
    declared = catalog.graph.declarations.get(name)
    write = "landing" if isinstance(declared, Source) else ""
    if isinstance(declared, Table):
        write = type(declared.write).__name__.lower()
    return {
        "table": name,
        "write": write,
        "rows": log.count_rows() if log else None,
        "bytes": log.count_bytes() if log else None,
        "files": log.count_files() if log else None,
        "version": log.version if log else None,
        "path": get_relative_path(log.path, catalog.root) if log else None,
        "columns": log.read_columns() if log else dict(declared.columns) if declared else {},
    }


def print_history(console: Console, catalog: Catalog, table: str, limit: int, as_json: bool) -> None:
    """Print a table's newest versions.

    Raises:
        DeclarationError: There is no such table.
    """
    paths = sql.find_tables(catalog.root / "lake")
    log = table_log.open_log(paths[table]) if table in paths else None
    if log is None:
        names = ", ".join(dict.fromkeys([*catalog.graph.declarations, *paths]))
        raise DeclarationError(f"{table!r} has no history: it is not written yet, or not one of {names}.")
    entries = log.read_entries(limit)
    if as_json:
        records = [asdict(entry.record) if entry.record else None for entry in entries]
        documents = zip(entries, records, strict=True)
        print_json(console, [{**asdict(entry), "record": record} for entry, record in documents])
        return
    grid = make_grid(*HISTORY_COLUMNS)
    for entry in entries:
        grid.add_row(*map(escape_text, _format_history(entry)))
    console.print(grid)


def _format_history(entry: table_log.Entry) -> list[str]:
    counts = ", ".join(f"{count:,} {name}" for name, count in entry.rows.items() if count)
    rows = counts or "0 written"
    version, at = str(entry.version), f"{entry.committed_at:%Y-%m-%d %H:%M:%S}"
    record = entry.record
    if record is None:
        return [version, at, entry.operation, "", "", rows, "", "", ""]
    operation = (
        f"{entry.operation} (rolls back {record.rolled_back_run})" if record.rolled_back_run else entry.operation
    )
    inputs = ", ".join(f"{name}@{consumed.version}" for name, consumed in record.inputs.items())
    code = f"{record.revision} {record.fingerprint}".strip()
    columns = "; ".join(record.column_changes)
    return [version, at, operation, record.run, str(record.batch), rows, inputs, code, columns]
