"""Partitions by date: those that a backfill asks for and has done already, in which pieces it is done, and the gaps between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

import pyarrow.compute as pc

from lakehouse.definitions.fingerprint import definition_of
from lakehouse.definitions.partitions import partition_of, spans
from lakehouse.definitions.tables import Table
from lakehouse.deltalog.commit_record import Consumed, Record
from lakehouse.deltalog.table_log import TableLog


def days(since: date, until: date) -> Iterator[date]:
    """Every day of a range, its last included."""
    for number in range((until - since).days + 1):
        yield since + timedelta(number)


def asked_for(table: Table, since: date | None, until: date | None) -> set[date]:
    """The partitions that a range of days asks for; none of a table that has none."""
    write = table.partitioning
    if write is None or since is None or until is None:
        return set()
    return {partition_of(day, write) for day in days(since, until)}


def done_before(table: Table, opened: TableLog, asked: set[date], inputs: Mapping[str, Consumed]) -> set[date]:
    """Those of the partitions asked for that were recomputed for being asked for, and would be the same now.

    That is since the code and the look-ups are as they are; what changed in a driver since is recomputed for that. Another writer's
    commit ends the search, as its changes may have to be put right, and so does the undo of a run.
    """
    found: set[date] = set()
    definition = definition_of(table)
    looked_up = {one.table for one in table.inputs.values() if one.role == "lookup"}
    for entry in opened.entries():
        record = entry.record
        if record is None or record.undoes or record.definition != definition:
            break
        if not _reads_as_now(record, looked_up, inputs):
            break
        if record.asked:
            first, last = map(date.fromisoformat, record.asked)
            found |= {one for one in asked if first <= one <= last}
    return found


def _reads_as_now(record: Record, looked_up: set[str], inputs: Mapping[str, Consumed]) -> bool:
    return all(
        record.inputs.get(name) == now if name in looked_up else record.inputs[name].generation == now.generation
        for name, now in inputs.items()
        if name in looked_up or name in record.inputs
    )


def pieces(touched: set[date], asked: set[date]) -> list[tuple[set[date], set[date]]]:
    """The commits in which partitions are replaced, each with those of them that were only asked for: a calendar year's at a time.

    All that changes touched is in the first, as it says which changes were consumed.
    """
    first, *rest = [set(group) for _, group in groupby(sorted(asked), key=lambda day: day.year)]
    return [(touched | first, first), *((year, year) for year in rest)]


# --- gaps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """Neighbouring partitions between a table's first and its last that have no row, and the drivers that have rows of these days."""

    first: date
    last: date
    partitions: int
    known_to: tuple[str, ...] = ()


def gaps(table: Table, opened: TableLog, drivers: Mapping[str, TableLog | None]) -> list[Gap]:
    """The gaps of a table replaced by partition. Reads the column of dates, and that of the drivers where there is a gap."""
    write = table.partitioning
    if write is None:
        return []
    there = _values(opened, write.partition)
    if not there:
        return []
    expected = {partition_of(day, write) for day in days(min(there), max(there))}
    missing = sorted(expected - there)
    if not missing:
        return []
    known = {
        one.table: {partition_of(day, write) for day in _values(log, one.by)}
        for one in table.drivers.values()
        if one.by is not None and (log := drivers[one.table]) is not None
    }
    return [_gap(first, last, missing, known) for first, last in spans(missing, write)]


def _gap(first: date, last: date, missing: Sequence[date], known: Mapping[str, set[date]]) -> Gap:
    inside = {one for one in missing if first <= one <= last}
    return Gap(first, last, len(inside), tuple(name for name, there in known.items() if there & inside))


def _values(opened: TableLog, column: str) -> set[date]:
    found: set[date] = set()
    for batch in opened.delta.to_pyarrow_dataset().to_batches(columns=[column]):
        found.update(pc.unique(batch.column(column)).to_pylist())
    return found - {None}
