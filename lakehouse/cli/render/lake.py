"""What the commands print of the lake: the state of its tables, their versions, their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lakehouse.catalog import Lake
from lakehouse.cli.render.printing import emit, grid, literally, size
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declared, Table
from lakehouse.definitions.write_modes import Replace
from lakehouse.deltalog import sql, table_log
from lakehouse.errors import DeclarationError
from lakehouse.plan import backfill
from lakehouse.plan.planner import decide
from lakehouse.plan.steps import Request
from lakehouse.quality import report
from lakehouse.storage.location import relative

if TYPE_CHECKING:
    import pyarrow as pa


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
    if lake.suites and report.index_path(lake.suites.data_docs).is_file():
        docs = report.index_path(lake.suites.data_docs)
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


def _gaps(lake: Lake, declared: Declared, opened: table_log.TableLog | None) -> list[dict[str, Any]]:
    if opened is None or not isinstance(declared, Table) or not isinstance(declared.write, Replace):
        return []
    found = backfill.gaps(declared, opened, {name: lake.log(name) for name in lake.graph.inputs(declared.name)})
    return [{**asdict(one), "first": str(one.first), "last": str(one.last)} for one in found]


def tables(console: Console, lake: Lake, as_json: bool) -> None:
    """The tables that the lake holds, by Delta's own counts, and those declared that it does not hold yet."""
    there = sql.tables(lake.root / "lake")
    entries = []
    for name in dict.fromkeys([*lake.graph.declared, *there]):
        opened = table_log.open_log(there[name]) if name in there else None
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


def _table_entry(lake: Lake, name: str, opened: table_log.TableLog | None) -> dict[str, Any]:
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
    path = sql.tables(lake.root / "lake").get(table)
    opened = table_log.open_log(path) if path else None
    if opened is None:
        known = ", ".join(dict.fromkeys([*lake.graph.declared, *sql.tables(lake.root / "lake")]))
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
