"""List the rejects in quarantine and the outcomes of replays. Without Spark.

A reject is pending until a replay (`lakehouse.writes.replay`) records its outcome in a table beside the quarantine.
No row is ever deleted from either table.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse.definitions.sources import MALFORMED, ORIGIN_COLUMNS
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import effective_commits, table_log
from lakehouse.errors import DeclarationError

if TYPE_CHECKING:
    from lakehouse.catalog import Catalog
    from lakehouse.storage.location import Location

# The outcome of a reject, its reason, and the run that recorded it (``at`` is UTC).
OUTCOME_COLUMNS = {
    "_file_id": "bigint",
    "_row": "bigint",
    "generation": "bigint",
    "batch": "bigint",
    "outcome": "string",
    "reason": "string",
    "run": "string",
    "at": "timestamp",
}
_IDENTITY_COLUMNS = ("_file_id", "_row", "generation")


@dataclass(frozen=True)
class QuarantineSummary:
    """The quarantine of one table.

    Attributes:
        pending: the number of pending rejects.
        rules: the number of pending rejects by violated rule.
        outcomes: the number of other rejects by outcome, replayed or discarded.
        last_quarantined_at: the time of the newest reject in UTC.
    """

    table: str
    pending: int
    rules: dict[str, int]
    outcomes: dict[str, int]
    last_quarantined_at: str


def summarize_quarantines(catalog: Catalog) -> list[QuarantineSummary]:
    """Summarize the quarantine of each table that has ever rejected a row."""
    summaries = []
    for name in (n for n, d in catalog.graph.declarations.items() if isinstance(d, Table)):
        catalog.check_quarantine(name, catalog.read_log(name))
        rejects = _read_rows(catalog.get_quarantine_path(name), ("quarantined_at",))
        if not rejects:
            continue
        pending = find_pending_rejects(catalog, name)
        outcomes = {_get_identity(row): row["outcome"] for row in _read_outcomes(catalog, name)}
        summaries.append(
            QuarantineSummary(
                name,
                len(pending),
                dict(Counter(rule for reject in pending for rule in reject["rules"])),
                dict(Counter(outcomes.values())),
                max(reject["quarantined_at"] for reject in rejects).isoformat(timespec="seconds"),
            )
        )
    return summaries


def find_pending_rejects(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    """Return the rejects without an outcome in a table's newest generation, in the order in which they were landed.

    Rejects of an uncommitted batch are left out, as its retry finds them again. A table that rereads all its rows may
    have accepted a reject in a later run. Such a reject is not pending either.

    Raises:
        DeclarationError: there is no such table.
        MissingStateError: the quarantine is missing, or lacks rejects.
    """
    table = catalog.graph.declarations.get(name)
    if not isinstance(table, Table):
        tables = [n for n, d in catalog.graph.declarations.items() if isinstance(d, Table)]
        raise DeclarationError(f"{name!r} is not a table with a quarantine. Choose one of {', '.join(tables)}.")
    log = catalog.read_log(name)
    record = log.last.record if log and log.last else None
    if record is None:
        return []
    catalog.check_quarantine(name, log)
    settled_batches = _read_settled_batches(catalog, name)
    rows = _read_rows(
        catalog.get_quarantine_path(name),
        ("rules", "original", *_IDENTITY_COLUMNS, "_source_file", "batch", "run", "quarantined_at"),
    )
    pending = [
        row
        for row in rows
        if row["generation"] == record.generation
        and settled_batches.get(_get_identity(row), 0) < row["batch"] <= record.batch
    ]
    if catalog.can_reread_all_rows(table):
        accepted = _read_origins(catalog, name, {row["_file_id"] for row in pending})
        pending = [row for row in pending if (row["_file_id"], row["_row"]) not in accepted]
    return sorted(pending, key=lambda row: (row["_file_id"] or 0, row["_row"] or 0, row["original"]))


def find_newest_rejects(
    catalog: Catalog, name: str, *, rule: str | None = None, file: str | None = None, run: str | None = None
) -> list[dict[str, Any]]:
    """Return the pending rejects of a table, the newest first.

    Args:
        rule: A violated rule. `parsed` stands for values of any column that cannot be parsed.
        file: The path of the landed file below the landing zone, or its name.
        run: The run that quarantined the rows.

    Raises:
        DeclarationError: There is no such table.
    """
    rejects = [
        reject
        for reject in find_pending_rejects(catalog, name)
        if (rule is None or any(_is_rule(violated, rule) for violated in reject["rules"]))
        and (file is None or _is_file(reject["_source_file"], file))
        and (run is None or reject["run"] == run)
    ]
    return sorted(
        rejects, key=lambda row: (row["quarantined_at"], row["_file_id"] or 0, row["_row"] or 0), reverse=True
    )


def _is_rule(violated: str, rule: str) -> bool:
    return violated == rule or violated.startswith(f"{rule}: ")


def _is_file(path: str | None, file: str) -> bool:
    return path is not None and (path == file.removeprefix("landing/") or path.endswith(f"/{file}"))


def _read_outcomes(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    """Return the outcomes of rejects, without those of replays that were rolled back."""
    outcomes = _read_rows(catalog.get_outcomes_path(name), tuple(OUTCOME_COLUMNS))
    log = table_log.open_log(catalog.get_path(name)) if outcomes else None
    entries = log.read_entries() if log else []
    effective = {entry.version for entry in effective_commits.filter_effective(entries)}
    rolled_back = {
        entry.record.batch
        for entry in entries
        if entry.record and not entry.record.rolled_back_run and entry.version not in effective
    }
    return [row for row in outcomes if row["batch"] not in rolled_back]


def _read_settled_batches(catalog: Catalog, name: str) -> dict[tuple[Any, ...], int]:
    """Return by reject the newest batch with an outcome. A reject of a later batch is pending again."""
    batches: dict[tuple[Any, ...], int] = {}
    for row in _read_rows(catalog.get_outcomes_path(name), (*_IDENTITY_COLUMNS, "batch")):
        batches[_get_identity(row)] = max(batches.get(_get_identity(row), 0), row["batch"])
    return batches


def _read_origins(catalog: Catalog, name: str, files: set[int]) -> set[tuple[int, int]]:
    """Return the file and row number of each row in the table that came from one of the files."""
    import pyarrow.compute as pc

    log = table_log.open_log(catalog.get_path(name))
    if log is None or not files:
        return set()
    rows = log.open_dataset().to_table([*ORIGIN_COLUMNS], filter=pc.field("_file_id").isin(list(files)))
    return {(row["_file_id"], row["_row"]) for row in rows.to_pylist()}


def list_reject_columns(catalog: Catalog, name: str) -> tuple[str, ...]:
    """Return the columns of the landed rows that became rejects; without a landed source, the table's own."""
    table = catalog.graph.declarations[name]
    assert isinstance(table, Table)
    source = catalog.get_landed_source(table)
    return (*(source or table).columns, MALFORMED)


def parse_original(original: str, columns: Any) -> dict[str, Any]:
    """Return the landed values of the given columns."""
    values = json.loads(original)
    return {name: values[name] for name in columns if name in values}


def _get_identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _IDENTITY_COLUMNS)


def _read_rows(path: Location, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    log = table_log.open_log(path)
    return log.open_dataset().to_table(columns=list(columns)).to_pylist() if log else []
