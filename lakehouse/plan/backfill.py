"""Partitions by date: those that a backfill asks for and has done already, in which pieces it is done, and the gaps between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

import pyarrow.compute as pc

from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.partitions import merge_into_ranges, truncate_to_partition
from lakehouse.definitions.tables import Table
from lakehouse.deltalog.commit_record import InputVersion, Record
from lakehouse.deltalog.table_log import TableLog


def iterate_days(since: date, until: date) -> Iterator[date]:
    """Every day of a range, its last included."""
    for number in range((until - since).days + 1):
        yield since + timedelta(number)


def select_backfill_partitions(table: Table, since: date | None, until: date | None) -> set[date]:
    """The partitions that a range of days asks for; none of a table that has none."""
    write = table.partitioning
    if write is None or since is None or until is None:
        return set()
    return {truncate_to_partition(day, write) for day in iterate_days(since, until)}


def find_completed_backfill(
    table: Table, log: TableLog, requested: set[date], inputs: Mapping[str, InputVersion]
) -> set[date]:
    """Those of the partitions asked for that were recomputed for being asked for, and would be the same now.

    That is since the code and the look-ups are as they are; what changed in a driver since is recomputed for that. Another writer's
    commit ends the search, as its changes may have to be put right, and so does the undo of a run.
    """
    found: set[date] = set()
    definition = compute_fingerprint(table)
    looked_up = {one.table for one in table.inputs.values() if one.role == "lookup"}
    for entry in log.entries():
        record = entry.record
        if record is None or record.rolled_back_run or record.fingerprint != definition:
            break
        if not _has_same_inputs(record, looked_up, inputs):
            break
        if record.backfill_range:
            first, last = map(date.fromisoformat, record.backfill_range)
            found |= {one for one in requested if first <= one <= last}
    return found


def _has_same_inputs(record: Record, lookups: set[str], inputs: Mapping[str, InputVersion]) -> bool:
    return all(
        record.inputs.get(name) == now if name in lookups else record.inputs[name].generation == now.generation
        for name, now in inputs.items()
        if name in lookups or name in record.inputs
    )


def split_by_year(affected: set[date], requested: set[date]) -> list[tuple[set[date], set[date]]]:
    """The commits in which partitions are replaced, each with those of them that were only asked for: a calendar year's at a time.

    All that changes touched is in the first, as it says which changes were consumed.
    """
    first, *rest = [set(group) for _, group in groupby(sorted(requested), key=lambda day: day.year)]
    return [(affected | first, first), *((year, year) for year in rest)]


# --- gaps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """Neighbouring partitions between a table's first and its last that have no row, and the drivers that have rows of these days."""

    first: date
    last: date
    partition_count: int
    inputs_with_rows: tuple[str, ...] = ()


def find_gaps(table: Table, opened: TableLog, input_logs: Mapping[str, TableLog | None]) -> list[Gap]:
    """The gaps of a table replaced by partition. Reads the column of dates, and that of the drivers where there is a gap."""
    write = table.partitioning
    if write is None:
        return []
    there = _read_dates(opened, write.partition)
    if not there:
        return []
    expected = {truncate_to_partition(day, write) for day in iterate_days(min(there), max(there))}
    missing = sorted(expected - there)
    if not missing:
        return []
    known = {
        one.table: {truncate_to_partition(day, write) for day in _read_dates(log, one.date_column)}
        for one in table.incremental_inputs.values()
        if one.date_column is not None and (log := input_logs[one.table]) is not None
    }
    return [_build_gap(first, last, missing, known) for first, last in merge_into_ranges(missing, write)]


def _build_gap(first: date, last: date, missing: Sequence[date], days_by_input: Mapping[str, set[date]]) -> Gap:
    inside = {one for one in missing if first <= one <= last}
    return Gap(first, last, len(inside), tuple(name for name, there in days_by_input.items() if there & inside))


def _read_dates(opened: TableLog, column: str) -> set[date]:
    found: set[date] = set()
    for batch in opened.delta_table.to_pyarrow_dataset().to_batches(columns=[column]):
        found.update(pc.unique(batch.column(column)).to_pylist())
    return found - {None}
