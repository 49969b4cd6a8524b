"""Backfills: the requested partitions by date, those that are completed, their commits by year, and gaps in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby, pairwise

from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.partitions import get_last_day, merge_into_ranges, truncate_to_partition
from lakehouse.definitions.tables import Table
from lakehouse.definitions.write_modes import Replace
from lakehouse.deltalog.commit_record import InputVersion, Record
from lakehouse.deltalog.table_log import TableLog, list_distinct

# Ten years. Of partitions further apart, one is a sentinel such as 9999-12-31.
_SENTINEL_DAYS = 3653


def iterate_days(since: date, until: date) -> Iterator[date]:
    """Yield every day of a range, its last day included."""
    for number in range((until - since).days + 1):
        yield since + timedelta(number)


def select_backfill_partitions(table: Table, since: date | None, until: date | None) -> set[date]:
    """Return the partitions that a range of days covers; none where the table has no partitions."""
    write = table.partitioning
    if write is None or since is None or until is None:
        return set()
    return {truncate_to_partition(day, write) for day in iterate_days(since, until)}


def find_completed_backfill(
    table: Table, log: TableLog, requested: set[date], inputs: Mapping[str, InputVersion]
) -> set[date]:
    """Return the requested partitions that were backfilled before and need no second backfill.

    Those were computed with the current code and the current lookups. Later changes of an incremental input are no
    reason for a second one, because every run recomputes the affected partitions. The search ends at another writer's
    commit, as a backfill may have to correct its changes, and at a rollback.
    """
    completed: set[date] = set()
    fingerprint = compute_fingerprint(table)
    lookups = {input_.table for input_ in table.inputs.values() if input_.role == "lookup"}
    for entry in log.read_entries():
        record = entry.record
        if record is None or record.rolled_back_run or record.fingerprint != fingerprint:
            break
        if not _has_same_inputs(record, lookups, inputs):
            break
        if record.backfill_range:
            first, last = map(date.fromisoformat, record.backfill_range)
            completed |= {day for day in requested if first <= day <= last}
    return completed


def _has_same_inputs(record: Record, lookups: set[str], inputs: Mapping[str, InputVersion]) -> bool:
    return all(
        record.inputs.get(name) == version if name in lookups else record.inputs[name].generation == version.generation
        for name, version in inputs.items()
        if name in lookups or name in record.inputs
    )


def split_by_year(affected: set[date], requested: set[date]) -> list[tuple[set[date], set[date]]]:
    """Split the partitions to replace into commits: one for each calendar year of the requested partitions.

    All affected partitions are in the first commit, because its record says which changes were consumed.

    Args:
        affected: Partitions that changed input rows affect.
        requested: Partitions that only a backfill requests.

    Returns:
        For each commit, its partitions and those of them that only the backfill requests.
    """
    first, *rest = [set(group) for _, group in groupby(sorted(requested), key=lambda day: day.year)]
    return [(affected | first, first), *((year, year) for year in rest)]


# --- gaps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """Neighbouring partitions without rows, between a table's first and last partition.

    Attributes:
        inputs_with_rows: The incremental inputs with rows of these days.
    """

    first: date
    last: date
    partition_count: int
    inputs_with_rows: tuple[str, ...] = ()


def find_gaps(table: Table, log: TableLog, input_logs: Mapping[str, TableLog | None]) -> list[Gap]:
    """Return the gaps of a table that is replaced by partition.

    A gap ends at a sentinel: between partitions that are years apart, only days with rows in an input count.
    Only date columns are read: the table's, and where partitions are missing those of the incremental inputs.
    """
    write = table.partitioning
    if write is None:
        return []
    existing = {truncate_to_partition(day, write) for day in _read_dates(log, write.partition)}
    holes = _find_holes(existing, write)
    if not holes:
        return []
    days_by_input = {
        input_.table: {truncate_to_partition(day, write) for day in _read_dates(input_log, input_.date_column)}
        for input_ in table.incremental_inputs.values()
        if input_.date_column is not None and (input_log := input_logs[input_.table]) is not None
    }
    near = (hole for hole in holes if (hole[1] - hole[0]).days < _SENTINEL_DAYS)
    expected = {truncate_to_partition(day, write) for first, last in near for day in iterate_days(first, last)}
    for days in days_by_input.values():
        expected |= {day for day in days if min(existing) < day < max(existing)}
    missing = sorted(expected - existing)
    return [_build_gap(first, last, missing, days_by_input) for first, last in merge_into_ranges(missing, write)]


def _find_holes(existing: set[date], write: Replace) -> list[tuple[date, date]]:
    """Return the first and the last day of each span between neighbouring partitions."""
    spans = ((get_last_day(before, write), after) for before, after in pairwise(sorted(existing)))
    return [(last + timedelta(1), after - timedelta(1)) for last, after in spans if (after - last).days > 1]


def _build_gap(first: date, last: date, missing: Sequence[date], days_by_input: Mapping[str, set[date]]) -> Gap:
    partitions = {day for day in missing if first <= day <= last}
    return Gap(first, last, len(partitions), tuple(name for name, days in days_by_input.items() if days & partitions))


def _read_dates(log: TableLog, column: str) -> set[date]:
    dates: set[date] = set()
    for batch in log.open_dataset().to_batches(columns=[column]):
        dates.update(day for day in list_distinct(batch.column(column)) if isinstance(day, date))
    return dates
