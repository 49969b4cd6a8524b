"""The quarantine as people see it: what waits in it, and what became of it. Without Spark.

A reject waits until a replay wrote down what became of it (`lakehouse.replay`), in a table beside the quarantine. Nothing is ever
taken out of either.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse import log
from lakehouse.declare import MALFORMED, Table
from lakehouse.errors import DeclarationError

if TYPE_CHECKING:
    import pyarrow as pa

    from lakehouse.plan import Lake
    from lakehouse.storage import Location

# What became of a reject: which one, the outcome, why, and the run that found it out (``at`` is UTC).
OUTCOME_COLUMNS = {
    "_file_id": "bigint", "_row": "bigint", "generation": "bigint", "outcome": "string", "reason": "string",
    "run": "string", "at": "timestamp",
}  # fmt: skip
_NAMES = ("_file_id", "_row", "generation")


@dataclass(frozen=True)
class Summary:
    """A table's quarantine: the rejects that wait, by the rules that they broke, and how many were replayed or discarded."""

    table: str
    waiting: int
    rules: dict[str, int]
    outcomes: dict[str, int]
    earlier: int
    newest: str


def summaries(lake: Lake) -> list[Summary]:
    """One for each table that ever set a row aside."""
    found = []
    for name in (n for n, d in lake.graph.declared.items() if isinstance(d, Table)):
        rejects = _rows(lake.quarantine(name), ("rules", *_NAMES, "quarantined_at"))
        if not rejects:
            continue
        generation = _generation(lake, name)
        settled = outcomes(lake, name)
        ours = [one for one in rejects if one["generation"] == generation]
        waits = [one for one in ours if _named(one) not in settled]
        found.append(
            Summary(
                name, len(waits), dict(Counter(rule for one in waits for rule in one["rules"])),
                dict(Counter(one["outcome"] for one in settled.values())), len(rejects) - len(ours),
                max(one["quarantined_at"] for one in rejects).isoformat(timespec="seconds"),
            )
        )  # fmt: skip
    return found


def waiting(lake: Lake, name: str) -> list[dict[str, Any]]:
    """The rejects of a table's newest generation of which nothing has become yet, in the order in which they were landed.

    Raises:
        DeclarationError: there is no such table.
    """
    if not isinstance(lake.graph.declared.get(name), Table):
        known = [n for n, d in lake.graph.declared.items() if isinstance(d, Table)]
        raise DeclarationError(f"{name!r} is no table with a quarantine; there are {', '.join(known)}.")
    generation, settled = _generation(lake, name), outcomes(lake, name)
    rows = _rows(
        lake.quarantine(name), ("rules", "original", *_NAMES, "_source_file", "batch", "run", "quarantined_at")
    )
    ours = (one for one in rows if one["generation"] == generation and _named(one) not in settled)
    return sorted(ours, key=lambda one: (one["_file_id"] or 0, one["_row"] or 0, one["original"]))


def outcomes(lake: Lake, name: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What became of a table's rejects, by their file, row and generation."""
    return {_named(one): one for one in _rows(lake.outcomes(name), tuple(OUTCOME_COLUMNS))}


def columns(lake: Lake, name: str) -> tuple[str, ...]:
    """The columns of a table's rejects that say something: those of the landed rows, or its own."""
    table = lake.graph.declared[name]
    assert isinstance(table, Table)
    source = lake.landed_driver(table)
    return (*(source or table).columns, MALFORMED)


def values(original: str, columns: Any) -> dict[str, Any]:
    """A landed row's own values, as they were landed."""
    said = json.loads(original)
    return {name: said.get(name) for name in columns if name in said}


def _generation(lake: Lake, name: str) -> int | None:
    record = log.last_record(lake.path(name))
    return record.generation if record else None


def _named(one: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(one[name] for name in _NAMES)


def _rows(place: Location, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    opened = log.open_log(place)
    return list(_read(opened, columns)) if opened else []


def _read(opened: log.TableLog, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    table: pa.Table = opened.delta.to_pyarrow_table(columns=list(columns))
    yield from table.to_pylist()
