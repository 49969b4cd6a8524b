"""The quarantine as people see it: what waits in it, and what became of it. Without Spark.

A reject waits until a replay wrote down what became of it (`lakehouse.writes.replay`), in a table beside the quarantine. Nothing is ever
taken out of either.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse.definitions.sources import MALFORMED, ORIGIN_COLUMNS
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import table_log
from lakehouse.errors import DeclarationError

if TYPE_CHECKING:
    from lakehouse.catalog import Lake
    from lakehouse.storage.location import Location

# What became of a reject: which one, the outcome, why, and the run that found it out (``at`` is UTC).
OUTCOME_COLUMNS = {
    "_file_id": "bigint", "_row": "bigint", "generation": "bigint", "batch": "bigint", "outcome": "string", "reason": "string",
    "run": "string", "at": "timestamp",
}  # fmt: skip
_IDENTITY_COLUMNS = ("_file_id", "_row", "generation")


@dataclass(frozen=True)
class QuarantineSummary:
    """A table's quarantine: the rejects that wait, by the rules that they broke, and how many were replayed or discarded."""

    table: str
    pending: int
    rules: dict[str, int]
    outcomes: dict[str, int]
    last_quarantined_at: str


def summarize_quarantines(lake: Lake) -> list[QuarantineSummary]:
    """One for each table that ever set a row aside."""
    found = []
    for name in (n for n, d in lake.graph.declarations.items() if isinstance(d, Table)):
        rejects = _read_rows(lake.quarantine_path(name), ("quarantined_at",))
        if not rejects:
            continue
        waits = find_pending_rejects(lake, name)
        settled = {_get_identity(one): one["outcome"] for one in _read_outcomes(lake, name)}
        found.append(
            QuarantineSummary(
                name, len(waits), dict(Counter(rule for one in waits for rule in one["rules"])),
                dict(Counter(settled.values())), max(one["quarantined_at"] for one in rejects).isoformat(timespec="seconds"),
            )
        )  # fmt: skip
    return found


def find_pending_rejects(lake: Lake, name: str) -> list[dict[str, Any]]:
    """The rejects of a table's newest generation of which nothing has become yet, in the order in which they were landed.

    Those of a batch that the table has not committed do not count: its retry finds them again. Nor do those that a later run took
    in, as it goes through all rows of a table that is worked out from all of them.

    Raises:
        DeclarationError: there is no such table.
    """
    table = lake.graph.declarations.get(name)
    if not isinstance(table, Table):
        known = [n for n, d in lake.graph.declarations.items() if isinstance(d, Table)]
        raise DeclarationError(f"{name!r} is no table with a quarantine; there are {', '.join(known)}.")
    record = table_log.read_last_record(lake.path(name))
    if record is None:
        return []
    settled = _read_settled_batches(lake, name)
    rows = _read_rows(
        lake.quarantine_path(name),
        ("rules", "original", *_IDENTITY_COLUMNS, "_source_file", "batch", "run", "quarantined_at"),
    )
    ours = [
        one for one in rows
        if one["generation"] == record.generation and settled.get(_get_identity(one), 0) < one["batch"] <= record.batch
    ]  # fmt: skip
    if lake.can_reread_all_rows(table):
        taken = _read_origins(lake, name, {one["_file_id"] for one in ours})
        ours = [one for one in ours if (one["_file_id"], one["_row"]) not in taken]
    return sorted(ours, key=lambda one: (one["_file_id"] or 0, one["_row"] or 0, one["original"]))


def _read_outcomes(lake: Lake, name: str) -> list[dict[str, Any]]:
    """What became of rejects, but for the replays that were taken back."""
    found = _read_rows(lake.outcomes_path(name), tuple(OUTCOME_COLUMNS))
    opened = table_log.open_log(lake.path(name)) if found else None
    entries = opened.entries() if opened else []
    kept = {one.version for one in table_log.filter_effective(entries)}
    gone = {
        one.record.batch for one in entries if one.record and not one.record.rolled_back_run and one.version not in kept
    }
    return [one for one in found if one["batch"] not in gone]


def _read_settled_batches(lake: Lake, name: str) -> dict[tuple[Any, ...], int]:
    """The batch of the replay in which something became of a reject: one of a later batch waits again."""
    found: dict[tuple[Any, ...], int] = {}
    for one in _read_rows(lake.outcomes_path(name), (*_IDENTITY_COLUMNS, "batch")):
        found[_get_identity(one)] = max(found.get(_get_identity(one), 0), one["batch"])
    return found


def _read_origins(lake: Lake, name: str, files: set[int]) -> set[tuple[int, int]]:
    """The landed rows of these files that the table holds."""
    import pyarrow.compute as pc

    opened = table_log.open_log(lake.path(name))
    if opened is None or not files:
        return set()
    there = opened.delta_table.to_pyarrow_dataset().to_table(
        [*ORIGIN_COLUMNS], filter=pc.field("_file_id").isin(list(files))
    )
    return {(row["_file_id"], row["_row"]) for row in there.to_pylist()}


def list_reject_columns(lake: Lake, name: str) -> tuple[str, ...]:
    """The columns of a table's rejects that say something: those of the landed rows, or its own."""
    table = lake.graph.declarations[name]
    assert isinstance(table, Table)
    source = lake.get_landed_source(table)
    return (*(source or table).columns, MALFORMED)


def parse_original(original: str, columns: Any) -> dict[str, Any]:
    """A landed row's own values, as they were landed."""
    said = json.loads(original)
    return {name: said[name] for name in columns if name in said}


def _get_identity(one: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(one[name] for name in _IDENTITY_COLUMNS)


def _read_rows(place: Location, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    opened = table_log.open_log(place)
    return opened.delta_table.to_pyarrow_table(columns=list(columns)).to_pylist() if opened else []
