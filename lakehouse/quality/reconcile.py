"""Recomputing the accounting from what lies in the lake: landed files, their bronze rows, the tables made of them, the quarantine.

Files are counted again, rows are matched by the file and row that they came from (`_file_id`, `_row`), with DuckDB over delta-rs,
without Spark; what is left over are duplicates, whose number is compared with what the runs found.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import table_log
from lakehouse.errors import get_first_line
from lakehouse.landing.inspection import count_parquet_rows, open_decompressed
from lakehouse.landing.manifest import LandedFile, Manifest
from lakehouse.storage import location

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from lakehouse.catalog import Lake
    from lakehouse.storage.location import Location

_MAX_SHOWN = 3


@dataclass(frozen=True)
class Reconciliation:
    """A table's rows by where they are, and what does not add up.

    ``came_in`` are the landed rows that it was made of, ``unseen`` the landed files that could not be counted again.
    """

    table: str
    input_rows: int
    row_counts: dict[str, int]
    differences: tuple[str, ...] = ()
    uncounted_files: int = 0


def reconcile(lake: Lake) -> list[Reconciliation]:
    """One account for each bronze table, and each table that takes landed rows one by one."""
    found = []
    for name, declared in lake.graph.declarations.items():
        try:
            opened = table_log.open_log(lake.path(name))
            if opened is None or opened.last is None or opened.last.record is None:
                continue
            if isinstance(declared, Source):
                found.append(_reconcile_source(lake, declared, opened))
            elif lake.get_landed_source(declared) and declared.incremental_input_table in opened.last.record.inputs:
                found.append(_reconcile_table(lake, declared, opened))
        except Exception as error:  # a damaged file, a missing version: it says nothing of the other tables
            found.append(Reconciliation(name, 0, {}, (f"cannot be reconciled: {get_first_line(error)}",)))
    return found


# --- landed files and bronze ----------------------------------------------------------------------------------------


def _reconcile_source(lake: Lake, source: Source, opened: table_log.TableLog) -> Reconciliation:
    """Files landed = rows in bronze."""
    landing = lake.landing_zone(source)
    assert opened.last is not None
    assert opened.last.record is not None
    deliveries = _find_effective_files(source, landing.read_history(), opened.last.record.batch)
    with _connect(bronze=opened) as found:
        query = "SELECT _file_id, count(*), count(DISTINCT _row), min(_row) FROM bronze GROUP BY 1"
        there = {row[0]: row[1:] for row in found.execute(query).fetchall()}
    counted = _count_files(source, landing.root, deliveries)
    differences = [
        f"has {there[one][0]:,} rows of delivery {one}, which no manifest names"
        for one in there
        if one not in deliveries
    ]
    for number, one in deliveries.items():
        rows, distinct, least = there.get(number, (0, 0, 1))
        wanted = counted.get(number)
        if rows != distinct or (rows and least != 1):
            differences.append(f"has rows of {one.path} (delivery {number}) twice, or not from its first on")
        if wanted is not None and wanted != rows:
            differences.append(f"has {rows:,} rows of {one.path} (delivery {number}), whose file has {wanted:,}")
    total = sum(rows for rows, _, _ in there.values())
    return Reconciliation(
        source.name,
        total,
        {"files": len(deliveries), "rows": total},
        tuple(differences),
        len(deliveries) - len(counted),
    )


def _find_effective_files(source: Source, history: Sequence[Manifest], committed: int) -> dict[int, LandedFile]:
    """The deliveries whose rows the table holds, by number."""
    held: dict[int, LandedFile] = {}
    for manifest in (one for one in history if one.batch <= committed):
        if manifest.is_full:
            held.clear()
        for one in manifest.files:
            if source.on_redelivery == "replace":
                held = {number: other for number, other in held.items() if other.path != one.path}
            held[one.file_id] = one
    return held


def _count_files(source: Source, root: Location, deliveries: dict[int, LandedFile]) -> dict[int, int]:
    """The records of the landed files that still hold the bytes that were delivered, by delivery."""
    there = location.stat_files(root, [one.path for one in deliveries.values()])

    def count(number: int, one: LandedFile) -> tuple[int, int | None]:
        found = there[one.path]
        if isinstance(found, OSError) or (found.identity or location.compute_identity(root / one.path)) != one.identity:
            return number, None
        return number, None if source.options.keys() - {"sep"} else _count_records(root / one.path, source)

    with ThreadPoolExecutor() as pool:
        return {n: rows for n, rows in pool.map(lambda item: count(*item), deliveries.items()) if rows is not None}


def _count_records(file: Location, source: Source) -> int:
    if source.format == "parquet":
        return count_parquet_rows(file)
    csv.field_size_limit(sys.maxsize)  # a value may be as long as it likes
    with open_decompressed(file) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as text:
        if source.format == "json":
            return sum(bool(line.strip()) for line in text)
        records = csv.reader(text, delimiter=source.options.get("sep", ","))
        return sum(bool(record) for record in records) - 1


# --- tables that take landed rows one by one ------------------------------------------------------------------------


def _reconcile_table(lake: Lake, table: Table, opened: table_log.TableLog) -> Reconciliation:
    """Rows in bronze, as consumed = rows in the table + duplicates + quarantine."""
    entry = opened.last
    assert entry is not None
    assert entry.record is not None
    bronze = table_log.open_log(
        lake.path(table.incremental_input_table), entry.record.inputs[table.incremental_input_table].version
    )
    aside, settled = (
        table_log.open_log(lake.quarantine_path(table.name)),
        table_log.open_log(lake.outcomes_path(table.name)),
    )
    with _connect(bronze=bronze, made=opened, aside=aside, settled=settled) as found:
        again = lake.can_reread_all_rows(table)
        waiting = _build_pending_query(entry.record.generation, entry.record.batch, aside, settled, again)
        found.execute(f"CREATE TABLE waiting AS {waiting}")
        settled_by = (
            {run for (run,) in found.execute("SELECT DISTINCT run FROM settled").fetchall()} if settled else set()
        )
        (came_in,) = _fetch_row(found, "SELECT count(*) FROM bronze")
        (kept,) = _fetch_row(found, "SELECT count(*) FROM (SELECT DISTINCT _file_id, _row FROM made)")
        (rows,) = _fetch_row(found, "SELECT count(*) FROM made")
        (quarantined,) = _fetch_row(found, "SELECT count(*) FROM waiting SEMI JOIN bronze USING (_file_id, _row)")
        differences = [
            *_find_misplaced_rows(found),
            *_find_duplicate_keys(found, table),
            *_find_unaccounted_rows(opened, table, rows),
        ]
    duplicates = came_in - kept - quarantined
    said = _sum_recorded_duplicates(lake, opened, table, settled_by)
    if said is not None and said != duplicates:
        differences.append(
            f"misses {duplicates - said:,} rows: {came_in:,} landed rows less {kept:,} kept and {quarantined:,} in quarantine "
            f"leave {duplicates:,} duplicates, where the runs found {said:,}"
        )
    parts = {"kept": kept, "duplicates": duplicates, "quarantined": quarantined}
    return Reconciliation(table.name, came_in, parts, tuple(differences))


def _build_pending_query(
    generation: int,
    batch: int,
    quarantine_log: table_log.TableLog | None,
    outcomes_log: table_log.TableLog | None,
    can_reread_all_rows: bool,
) -> str:
    """SQL: the rejects of a generation of which nothing has become."""
    if quarantine_log is None:
        return "SELECT 0 AS _file_id, 0 AS _row LIMIT 0"
    rows = f"SELECT DISTINCT _file_id, _row FROM aside WHERE generation = {generation} AND batch <= {batch}"
    if outcomes_log:
        later = "SELECT 1 FROM settled s WHERE (s._file_id, s._row, s.generation) = (aside._file_id, aside._row, aside.generation)"
        rows += f" AND NOT EXISTS ({later} AND s.batch >= aside.batch)"
    # A table that is worked out from all its rows may have taken them in since.
    return f"{rows} EXCEPT SELECT _file_id, _row FROM made" if can_reread_all_rows else rows


def _find_misplaced_rows(connection: DuckDBPyConnection) -> Iterator[str]:
    strange = "SELECT _file_id, _row FROM made ANTI JOIN bronze USING (_file_id, _row)"
    yield from _describe_rows(connection, strange, "rows that come from no landed row")
    twice = "SELECT DISTINCT made._file_id, made._row FROM made SEMI JOIN waiting USING (_file_id, _row)"
    yield from _describe_rows(connection, twice, "rows that are in its quarantine, too")


def _find_duplicate_keys(connection: DuckDBPyConnection, table: Table) -> Iterator[str]:
    key = table.write.identity_columns(table.key)
    columns = ", ".join(f'"{c}"' for c in key)
    query = f"SELECT {columns} FROM made GROUP BY {columns} HAVING count(*) > 1"
    yield from _describe_rows(connection, query, f"keys ({', '.join(key)}) more than once")


def _describe_rows(connection: DuckDBPyConnection, query: str, what: str) -> Iterator[str]:
    (count,) = _fetch_row(connection, f"SELECT count(*) FROM ({query})")
    if count:
        some = connection.execute(f"SELECT * FROM ({query}) ORDER BY ALL LIMIT {_MAX_SHOWN}").fetchall()
        yield f"has {count:,} {what}, such as {', '.join('/'.join(map(str, row)) for row in some)}"


def _find_unaccounted_rows(opened: table_log.TableLog, table: Table, rows: int) -> Iterator[str]:
    """Commits of others, and rows that there are although no commit wrote them."""
    expected: int | None = None  # until a commit wrote the whole table: earlier ones may be gone from the log
    since = -1  # the version that did
    left: dict[int, tuple[int | None, int]] = {}
    foreign: list[table_log.Entry] = []
    for entry in reversed(opened.entries()):
        if entry.record is None:
            foreign += [entry] if entry.operation not in table_log.MAINTENANCE_OPERATIONS else []
            continue
        if entry.record.rolled_back_run:
            expected, since = left.get(entry.record.restored_version, (None, entry.version))
            expected = entry.record.rows.get("restored") if expected is None else expected
        elif entry.mode == "Overwrite":
            expected, since = entry.rows_written, entry.version
        elif expected is not None:
            expected += _count_growth(entry)
        left[entry.version] = (expected, since)
    for entry in foreign:
        if entry.version > since:
            yield f"was changed by another writer: version {entry.version}, {entry.operation}"
    if expected is not None and expected != rows:
        yield f"has {rows:,} rows where its commits left {expected:,}"


def _count_growth(entry: table_log.Entry) -> int:
    """The rows by which a commit made its table grow."""
    if entry.operation != "MERGE":
        return entry.rows_written
    metrics = {name: int(entry.metrics.get(f"numTargetRows{name}", 0)) for name in ("Inserted", "Deleted")}
    return metrics["Inserted"] - metrics["Deleted"]


def _sum_recorded_duplicates(lake: Lake, opened: table_log.TableLog, table: Table, settled_by: set[str]) -> int | None:
    """The landed rows that the runs found to be repeated, or to be replaced by newer ones; None where they are counted anew."""
    source = lake.get_landed_source(table)
    if source is None or source.on_redelivery == "replace" or table.write.reads_all_rows:
        return None
    repeated = 0
    for entry in table_log.filter_effective(opened.entries()):
        record = entry.record
        assert record is not None
        # A replay that was cut short is counted by the one that finished it.
        if "replayed" not in record.rows or record.run in settled_by:
            repeated += record.rows.get("unchanged", 0) + record.rows.get("superseded", 0)
        repeated += int(entry.metrics.get("numTargetRowsUpdated", 0))
        if entry.mode == "Overwrite":  # of the whole
            return repeated
    return None  # its beginning is gone from the log


# --- DuckDB ---------------------------------------------------------------------------------------------------------


@contextmanager
def _connect(**tables: table_log.TableLog | None) -> Iterator[DuckDBPyConnection]:
    """A connection with the tables as views."""
    import duckdb

    with duckdb.connect() as connection:
        for name, opened in tables.items():
            if opened is not None:
                connection.register(name, opened.delta_table.to_pyarrow_dataset())
        yield connection


def _fetch_row(connection: DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
