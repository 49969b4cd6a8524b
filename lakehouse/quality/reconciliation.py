"""Recount the rows of landed files, bronze tables, the tables that read them, and the quarantine. Without Spark.

DuckDB over delta-rs matches rows by their origin, a file and a row number (`_file_id`, `_row`). Rows without a match
count as duplicates. Their number is compared with the number that the runs recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse.causes import describe_cause
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import effective_commits, sql, table_log
from lakehouse.deltalog.digests import Verification, verify_files
from lakehouse.errors import LakehouseError, get_first_line
from lakehouse.landing.manifest import LandedFile, Manifest
from lakehouse.landing.paths import stat_files
from lakehouse.landing.reader.counting import count_records
from lakehouse.landing.reader.rejection import RejectedFileError
from lakehouse.storage import location

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from lakehouse.catalog import Catalog
    from lakehouse.landing.zone import LandingZone

_MAX_SHOWN = 3


@dataclass(frozen=True)
class Reconciliation:
    """The rows of one table by place.

    Attributes:
        input_rows: the number of landed rows that the table has read.
        row_counts: the number of rows by place.
        differences: descriptions of numbers that do not add up.
        uncounted_files: the number of landed files that could not be counted again.
    """

    table: str
    input_rows: int
    row_counts: dict[str, int]
    differences: tuple[str, ...] = ()
    uncounted_files: int = 0


def reconcile(catalog: Catalog) -> list[Reconciliation]:
    """Recount the rows of each bronze table, and of each table that takes landed rows one by one."""
    reconciliations = []
    for name, declared in catalog.graph.declarations.items():
        try:
            log = table_log.open_log(catalog.get_path(name))
            if log is None or log.last is None or log.last.record is None:
                continue
            if isinstance(declared, Source):
                reconciliations.append(_reconcile_source(catalog, declared, log))
            elif catalog.get_landed_source(declared) and declared.incremental_input_table in log.last.record.inputs:
                reconciliations.append(_reconcile_table(catalog, declared, log))
        except Exception as error:  # A damaged file or a missing version must not block the other tables.
            reconciliations.append(Reconciliation(name, 0, {}, (f"cannot be reconciled: {_describe(error)}",)))
    return reconciliations


def verify_tables(catalog: Catalog) -> dict[str, Verification]:
    """Compare the files of every table of the lake with the digests that its commits wrote."""
    verifications = {}
    for name, path in sql.find_tables(catalog.root / "lake").items():
        try:
            log = table_log.open_log(path)
            if log is not None:
                verifications[name] = verify_files(log)
        except Exception as error:  # A damaged log must not block the other tables.
            verifications[name] = Verification(0, 0, (f"cannot be verified: {_describe(error)}",))
    return verifications


def _describe(error: Exception) -> str:
    return get_first_line(error) if isinstance(error, LakehouseError) else describe_cause(error)


# --- landed files and bronze ----------------------------------------------------------------------------------------


def _reconcile_source(catalog: Catalog, source: Source, log: table_log.TableLog) -> Reconciliation:
    """Compare the rows of landed files with those in bronze."""
    landing = catalog.get_landing_zone(source)
    assert log.last is not None
    assert log.last.record is not None
    deliveries = _find_effective_files(source, landing.read_history(), log.last.record.batch)
    with sql.connect({"bronze": log.open_dataset()}) as connection:
        query = "SELECT _file_id, count(*), count(DISTINCT _row), min(_row) FROM bronze GROUP BY 1"
        bronze_counts = {row[0]: row[1:] for row in connection.execute(query).fetchall()}
    file_counts = _count_files(landing, deliveries)
    differences = [
        f"has {counts[0]:,} rows of delivery {number}, which no manifest names"
        for number, counts in bronze_counts.items()
        if number not in deliveries
    ]
    for number, file in deliveries.items():
        rows, distinct, least = bronze_counts.get(number, (0, 0, 1))
        expected = file_counts.get(number)
        if rows != distinct or (rows and least != 1):
            differences.append(f"has duplicate rows of {file.path} (delivery {number}), or lacks its first row")
        if expected is not None and expected != rows:
            differences.append(f"has {rows:,} rows of {file.path} (delivery {number}), but its file has {expected:,}")
    total = sum(rows for rows, _, _ in bronze_counts.values())
    return Reconciliation(
        source.name,
        total,
        {"files": len(deliveries), "rows": total},
        tuple(differences),
        len(deliveries) - len(file_counts),
    )


def _find_effective_files(source: Source, history: Sequence[Manifest], last_batch: int) -> dict[int, LandedFile]:
    """Return by number the deliveries with rows in the table."""
    deliveries: dict[int, LandedFile] = {}
    for manifest in (manifest for manifest in history if manifest.batch <= last_batch):
        if manifest.is_full:
            deliveries.clear()
        for file in manifest.files:
            if source.on_redelivery == "replace":
                deliveries = {number: other for number, other in deliveries.items() if other.path != file.path}
            deliveries[file.file_id] = file
    return deliveries


def _count_files(landing: LandingZone, deliveries: dict[int, LandedFile]) -> dict[int, int]:
    """Count the records of each landed file that still has its delivered bytes."""
    states = stat_files(landing.root, [file.path for file in deliveries.values()])

    def count(number: int, file: LandedFile) -> tuple[int, int | None]:
        state, path = states[file.path], landing.root / file.path
        if isinstance(state, OSError) or (state.identity or location.compute_identity(path)) != file.identity:
            return number, None
        try:
            return number, count_records(landing.source, file, landing.root, landing.unpack_limits)
        except RejectedFileError:  # an older version of the reader took the file
            return number, None

    with ThreadPoolExecutor() as pool:
        counts = pool.map(lambda item: count(*item), deliveries.items())
        return {number: rows for number, rows in counts if rows is not None}


# --- tables that take landed rows one by one ------------------------------------------------------------------------


def _reconcile_table(catalog: Catalog, table: Table, log: table_log.TableLog) -> Reconciliation:
    """Compare the rows in bronze, at the version read, with the rows in the table, duplicates and quarantine."""
    entry = log.last
    assert entry is not None
    assert entry.record is not None
    input_name = table.incremental_input_table
    bronze = table_log.open_log(catalog.get_path(input_name), entry.record.inputs[input_name].version)
    rejects = table_log.open_log(catalog.get_quarantine_path(table.name))
    outcomes = table_log.open_log(catalog.get_outcomes_path(table.name))
    logs = {"bronze": bronze, "target": log, "rejects": rejects, "outcomes": outcomes}
    datasets = {name: each.open_dataset() for name, each in logs.items() if each is not None}
    with sql.connect(datasets) as connection:
        rereads = catalog.can_reread_all_rows(table)
        query = _build_pending_query(entry.record.generation, entry.record.batch, rejects, outcomes, rereads)
        connection.execute(f"CREATE TABLE pending AS {query}")
        replay_runs = _read_replay_runs(connection) if outcomes else set()
        (input_rows,) = _fetch_row(connection, "SELECT count(*) FROM bronze")
        (origins,) = _fetch_row(connection, "SELECT count(*) FROM (SELECT DISTINCT _file_id, _row FROM target)")
        (rows,) = _fetch_row(connection, "SELECT count(*) FROM target")
        (quarantined,) = _fetch_row(connection, "SELECT count(*) FROM pending SEMI JOIN bronze USING (_file_id, _row)")
        differences = [
            *_find_misplaced_rows(connection),
            *_find_duplicate_keys(connection, table),
            *_find_unaccounted_rows(log, rows),
        ]
    duplicates = input_rows - origins - quarantined
    recorded = _sum_recorded_duplicates(catalog, log, table, replay_runs)
    if recorded is not None and recorded != duplicates:
        missing = duplicates - recorded
        differences.append(
            (f"lacks {missing:,} rows: " if missing > 0 else f"has {-missing:,} rows too many: ")
            + f"{input_rows:,} landed rows less {origins:,} kept and {quarantined:,} in quarantine leave "
            f"{duplicates:,} duplicates, but the runs counted {recorded:,}"
        )
    row_counts = {"kept": origins, "duplicates": duplicates, "quarantined": quarantined}
    return Reconciliation(table.name, input_rows, row_counts, tuple(differences))


def _build_pending_query(
    generation: int,
    batch: int,
    quarantine_log: table_log.TableLog | None,
    outcomes_log: table_log.TableLog | None,
    can_reread_all_rows: bool,
) -> str:
    """Return the SQL query of a generation's rejects without an outcome."""
    if quarantine_log is None:
        return "SELECT 0 AS _file_id, 0 AS _row LIMIT 0"
    rows = f"SELECT DISTINCT _file_id, _row FROM rejects WHERE generation = {generation} AND batch <= {batch}"
    if outcomes_log:
        rows += """ AND NOT EXISTS (
            SELECT 1 FROM outcomes o
            WHERE (o._file_id, o._row, o.generation) = (rejects._file_id, rejects._row, rejects.generation)
            AND o.batch >= rejects.batch
        )"""
    # A table that rereads all its rows may have accepted rejects since.
    return f"{rows} EXCEPT SELECT _file_id, _row FROM target" if can_reread_all_rows else rows


def _read_replay_runs(connection: DuckDBPyConnection) -> set[str]:
    """Return the runs that recorded outcomes."""
    return {run for (run,) in connection.execute("SELECT DISTINCT run FROM outcomes").fetchall()}


def _find_misplaced_rows(connection: DuckDBPyConnection) -> Iterator[str]:
    unknown = "SELECT _file_id, _row FROM target ANTI JOIN bronze USING (_file_id, _row)"
    yield from _describe_rows(connection, unknown, "rows that come from no landed row")
    duplicates = "SELECT DISTINCT target._file_id, target._row FROM target SEMI JOIN pending USING (_file_id, _row)"
    yield from _describe_rows(connection, duplicates, "rows that are in its quarantine, too")


def _find_duplicate_keys(connection: DuckDBPyConnection, table: Table) -> Iterator[str]:
    key = table.write.get_identity_columns(table.key)
    columns = ", ".join(f'"{c}"' for c in key)
    query = f"SELECT {columns} FROM target GROUP BY {columns} HAVING count(*) > 1"
    yield from _describe_rows(connection, query, f"keys ({', '.join(key)}) more than once")


def _describe_rows(connection: DuckDBPyConnection, query: str, description: str) -> Iterator[str]:
    (count,) = _fetch_row(connection, f"SELECT count(*) FROM ({query})")
    if count:
        # As text, because Python lacks the dates beyond the year 9999, and DuckDB needs pytz for times.
        first = f"SELECT * FROM ({query}) ORDER BY ALL LIMIT {_MAX_SHOWN}"
        examples = connection.execute(f"SELECT CAST(COLUMNS(*) AS VARCHAR) FROM ({first})").fetchall()
        yield f"has {count:,} {description}, such as {', '.join('/'.join(map(str, row)) for row in examples)}"


def _find_unaccounted_rows(log: table_log.TableLog, rows: int) -> Iterator[str]:
    """Describe the commits of other writers, and a number of rows that differs from the sum of all commits."""
    expected: int | None = None  # None before the first full write, as the log may lack earlier commits
    full_version = -1  # the version of the last full write
    states: dict[int, tuple[int | None, int]] = {}
    foreign: list[table_log.Entry] = []
    for entry in reversed(log.read_entries()):
        if entry.record is None:
            foreign += [entry] if entry.operation not in table_log.MAINTENANCE_OPERATIONS else []
            continue
        if entry.record.rolled_back_run:
            expected, full_version = states.get(entry.record.restored_version, (None, entry.version))
            expected = entry.record.rows.get("restored") if expected is None else expected
        elif entry.mode == "Overwrite":
            expected, full_version = entry.rows_written, entry.version
        elif expected is not None:
            expected += _count_added_rows(entry)
        states[entry.version] = (expected, full_version)
    for entry in foreign:
        if entry.version > full_version:
            yield f"was changed by another writer: version {entry.version}, {entry.operation}"
    if expected is not None and expected != rows:
        yield f"has {rows:,} rows, but its commits left {expected:,}"


def _count_added_rows(entry: table_log.Entry) -> int:
    """Return the number of rows that a commit inserted, less those that it deleted."""
    if entry.operation != "MERGE":
        return entry.rows_written
    metrics = {name: int(entry.metrics.get(f"numTargetRows{name}", 0)) for name in ("Inserted", "Deleted")}
    return metrics["Inserted"] - metrics["Deleted"]


def _sum_recorded_duplicates(
    catalog: Catalog, log: table_log.TableLog, table: Table, replay_runs: set[str]
) -> int | None:
    """Return the number of landed rows that the runs recorded as repeated or superseded.

    Returns:
        None if the table rereads all its rows, or if the log lacks the first commits.
    """
    source = catalog.get_landed_source(table)
    if source is None or source.on_redelivery == "replace" or table.write.reads_all_rows:
        return None
    duplicates = 0
    for entry in effective_commits.filter_effective(log.read_entries()):
        record = entry.record
        assert record is not None
        # The run that finishes an interrupted replay counts its rows.
        if "replayed" not in record.rows or record.run in replay_runs:
            duplicates += record.rows.get("unchanged", 0) + record.rows.get("superseded", 0)
        duplicates += int(entry.metrics.get("numTargetRowsUpdated", 0))
        if entry.mode == "Overwrite":  # a full write
            return duplicates
    return None


# --- DuckDB ---------------------------------------------------------------------------------------------------------


def _fetch_row(connection: DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
