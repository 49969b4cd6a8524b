"""Table logs by delta-rs: versions, records, sizes and changed values. Needs no Spark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from lakehouse.causes import describe_cause, describe_known_cause
from lakehouse.deltalog.commit_record import Record
from lakehouse.errors import LedgerError, StorageError
from lakehouse.storage import s3
from lakehouse.storage.location import Location, build_delta_options, list_names, stat_files

if TYPE_CHECKING:
    from lakehouse.deltalog.verified_dataset import VerifiedDataset

# Limits on the versions to scan for a record. Each version is a file, and nearly always the newest has a record.
SCAN_LIMITS = (1, 32, None)
# Delta operations that change no rows.
MAINTENANCE_OPERATIONS = (
    *("OPTIMIZE", "VACUUM", "VACUUM START", "VACUUM END"),
    *("SET TBLPROPERTIES", "UPGRADE PROTOCOL", "ADD COLUMNS", "ADD COLUMN", "CHANGE COLUMN"),
)
_EPOCH = date(1970, 1, 1).toordinal()
_CHANGE_TYPE = "_change_type"
_COMMIT_FILE = re.compile(r"\.(json|parquet)$")
_MERGE_METRICS = ("numTargetRowsInserted", "numTargetRowsUpdated", "numTargetRowsDeleted")


@dataclass(frozen=True)
class Entry:
    """One version of a table.

    Attributes:
        committed_at: In UTC.
        operation: Name of the Delta operation.
        metrics: Delta's metrics of the operation.
        record: The ledger's record; None where the commit has none.
        mode: For a write, Append or Overwrite.
    """

    version: int
    committed_at: datetime
    operation: str
    metrics: dict[str, Any]
    record: Record | None
    mode: str = ""

    @property
    def rows_written(self) -> int:
        """Number of written rows, by Delta's count, without the rows of the same files that a replacement copies."""
        return int(self.metrics.get("numOutputRows", 0)) - int(self.metrics.get("numCopiedRows", 0))

    @property
    def rows(self) -> dict[str, int]:
        """Row counts of the record. Delta's count stands for written rows that the record does not count."""
        return {"written": self.rows_written, **(self.record.rows if self.record else {})}


class TableLog:
    """A table's log at the version that was opened."""

    def __init__(self, path: Location, table: DeltaTable) -> None:
        self.path = path
        self.delta_table = table

    @property
    def version(self) -> int:
        return int(self.delta_table.version())

    def read_entries(self, limit: int | None = None) -> list[Entry]:
        """Return the versions, newest first."""
        with _translate_store_errors(self.path):
            return [_parse_entry(commit) for commit in self.delta_table.history(limit)]

    @cached_property
    def last(self) -> Entry | None:
        """The newest entry that carries a record."""
        for limit in SCAN_LIMITS:
            entries = self.read_entries(limit)
            last = next((entry for entry in entries if entry.record), None)
            if last or limit is None or len(entries) < limit:
                return last
        return None

    def open_dataset(self) -> VerifiedDataset:
        """Open the rows as a dataset of pyarrow, which skips files by their statistics and verifies their pages."""
        from lakehouse.deltalog import verified_dataset  # Slow to import, and needed for rows only.

        return verified_dataset.open_dataset(self.path, self.delta_table)

    @cached_property
    def quarantined_batch(self) -> int:
        """The newest batch with rejects that must be in the table's quarantine; 0 where no batch has any."""
        record = self.last.record if self.last else None
        if record is None:
            return 0
        if record.quarantined_batch is not None:
            return record.quarantined_batch
        records = (entry.record for entry in self.read_entries() if entry.record)
        # A replay counts rejects that stay in the quarantine, and writes none.
        batches = (r.batch for r in records if r.rows.get("quarantined") and "replayed" not in r.rows)
        return max(batches, default=0)

    def find_foreign_commits(self, after: int) -> list[Entry]:
        """Return the commits of other writers that changed rows after a version, oldest first.

        A rebuild replaces the rows of all earlier commits, and a rollback those since the version that it restores.
        """
        foreign, generation = list[Entry](), None
        for entry in reversed(self.read_entries(self.version - after + 1) if after < self.version else []):
            record = entry.record
            if record is None:
                is_foreign = entry.version > after and entry.operation not in MAINTENANCE_OPERATIONS
                foreign += [entry] if is_foreign else []
                continue
            if record.rolled_back_run:
                foreign = [commit for commit in foreign if commit.version <= record.restored_version]
            elif record.generation != generation:
                foreign = []
            generation = record.generation
        return foreign

    def read_columns(self) -> dict[str, str]:
        """Return the column names with their Spark SQL types."""
        return {f["name"]: _to_sql_type(f["type"]) for f in json.loads(self.delta_table.schema().to_json())["fields"]}

    def count_rows(self) -> int:
        return self.measure()[0]

    def count_bytes(self) -> int:
        return self.measure()[1]

    def measure(self, column: str | None = None, days: Sequence[tuple[date, date]] = ()) -> tuple[int, int]:
        """Return the rows and bytes of the table's files.

        Args:
            column: A date column. With it, only the files that may have rows of the days count.
            days: Ranges of days, each as its first and last day.
        """
        adds = self._add_actions
        if column is not None and f"min.{column}" in adds.column_names:
            # As numbers of days, because Python has no date beyond the year 9999.
            minima, maxima = (adds[f"{side}.{column}"].cast(pa.int32()).to_pylist() for side in ("min", "max"))
            ranges = [(first.toordinal() - _EPOCH, last.toordinal() - _EPOCH) for first, last in days]
            matches = [
                low is None or high is None or any(low <= last and first <= high for first, last in ranges)
                for low, high in zip(minima, maxima, strict=True)
            ]
            adds = adds.filter(pa.array(matches, pa.bool_()))
        rows, size = (int(pc.sum(adds[c]).as_py() or 0) if adds.num_rows else 0 for c in ("num_records", "size_bytes"))
        return rows, size

    def measure_changes(self, after: int) -> tuple[int, int]:
        """Return the number of rows that were written or deleted after a version, and the bytes of their files."""
        rows = size = 0
        for entry in self.read_entries(max(self.version - after, 0) or 1):
            if entry.version > after:
                merged = [int(entry.metrics.get(name, 0)) for name in _MERGE_METRICS]
                rows += sum(merged) or int(entry.metrics.get("numOutputRows", 0))
                size += int(entry.metrics.get("numOutputBytes") or entry.metrics.get("numTargetBytesAdded") or 0)
        return rows, size

    def list_files(self) -> list[str]:
        """Return the paths of the table's files below its folder, as its log has them."""
        return [str(path) for path in self._add_actions["path"].to_pylist()]

    def count_files(self) -> int:
        return int(self._add_actions.num_rows)

    def list_missing_files(self) -> list[str]:
        """Return the paths of the table's files that no longer exist, as a rule because of a VACUUM.

        Raises:
            OSError: The state of a file is unknown, because access is denied or the machine fails.
        """
        missing = list[str]()
        for path, state in stat_files(self.path, map(unquote, self.list_files())).items():
            if isinstance(state, OSError):
                if describe_known_cause(state):
                    raise state
                missing.append(path)
        return missing

    @cached_property
    def _add_actions(self) -> pa.Table:
        return pa.table(self.delta_table.get_add_actions(flatten=True))

    def has_change_feed(self) -> bool:
        """Return whether the table's change feed is on."""
        return str(self.delta_table.metadata().configuration.get("delta.enableChangeDataFeed")).lower() == "true"

    def check_changes(self, column: str, after: int, until: int) -> None:
        """Read a column of all rows that changed after a version, up to another one.

        Raises:
            LedgerError: The changes can no longer be read.
        """
        for _ in self._read_changes([column], after, until):
            pass

    def read_net_changed_values(self, column: str, after: int, until: int, ignored: Sequence[str]) -> set[Any]:
        """Return the values of a column in the rows that only one of two versions has, dates beyond Python's as text.

        Args:
            ignored: Columns that do not count when rows are compared.

        Raises:
            LedgerError: The changes can no longer be read.
        """
        import duckdb

        values, change_types = set[Any](), set[str]()
        for batch in self._read_changes([column, _CHANGE_TYPE], after, until):
            values.update(list_distinct(batch.column(column)))
            change_types.update(pc.unique(batch.column(_CHANGE_TYPE)).to_pylist())
        if len(change_types) < 2:
            return values  # With one type of change, no change can cancel another.
        compared = [c for c in self.read_columns() if c not in ignored]
        names = ", ".join('"' + c.replace('"', '""') + '"' for c in compared)
        net = f"sum(CASE WHEN {_CHANGE_TYPE} IN ('insert', 'update_postimage') THEN 1 ELSE -1 END)"
        batches = self._read_changes([*compared, _CHANGE_TYPE], after, until)
        first = next(batches)
        with duckdb.connect() as connection:  # DuckDB aggregates the stream and need not cache it.
            connection.register("changes", pa.RecordBatchReader.from_batches(first.schema, chain([first], batches)))
            differing = f"SELECT {names} FROM changes GROUP BY {names} HAVING {net} <> 0"
            return {
                value for (value,) in connection.execute(f'SELECT DISTINCT "{column}" FROM ({differing})').fetchall()
            }

    def _read_changes(self, columns: list[str], after: int, until: int) -> Iterator[pa.RecordBatch]:
        """Yield these columns of every row inserted, deleted or updated in (after, until].

        Raises:
            LedgerError: The changes can no longer be read.
        """
        if after >= until:
            return
        try:
            with _translate_store_errors(self.path):
                for batch in self.delta_table.load_cdf(
                    starting_version=after + 1, ending_version=until, columns=columns
                ):
                    yield pa.record_batch(batch)
        except StorageError:  # The store failed. The changes may exist.
            raise
        except Exception as error:  # The lazy reader of the files raises nothing more precise.
            raise LedgerError(
                f"{self.path}: the change data feed after version {after} cannot be read ({error})"
            ) from error


def list_distinct(values: pa.Array) -> list[Any]:
    """Return the distinct values. A date that Python does not have, such as one of the year 10000, is text."""
    distinct = pc.unique(values)
    try:
        return list(distinct.to_pylist())
    except (OverflowError, ValueError):
        import duckdb

        with duckdb.connect() as connection:
            connection.register("distinct_values", pa.table({"value": distinct}))
            return [value for (value,) in connection.execute("SELECT value FROM distinct_values").fetchall()]


@contextmanager
def _translate_store_errors(path: Location) -> Iterator[None]:
    """Translate errors of the store and of the machine, and name the table of a record with another format."""
    try:
        yield
    except LedgerError as error:
        raise LedgerError(f"{path}: {error}") from error
    except Exception as error:  # The reading library decides the type.
        if explanation := s3.explain_error(error) or describe_known_cause(error):
            raise StorageError(f"{path}: {explanation}") from error
        raise


def open_log(path: Location, version: int | None = None) -> TableLog | None:
    """Open the log of the table at a path.

    Returns:
        The log; None where there is no table.

    Raises:
        LedgerError: The table's log is damaged, or the version no longer exists.
        StorageError: The store or the machine fails. The log may be complete.
    """
    try:
        try:
            table = _open_table(path, version)
        except TableNotFoundError:
            # A failed first write leaves a folder without any commit.
            if not any(_COMMIT_FILE.search(name) for name in list_names(path / "_delta_log")):
                return None
            table = _open_table(path, version)  # another writer has just made the first commit
        log = TableLog(path, table)
        _check_complete(log)
        return log
    except (DeltaError, OSError, ValueError) as error:
        if explanation := s3.explain_error(error) or describe_known_cause(error):
            raise StorageError(f"{path}: {explanation}") from error
        raise LedgerError(
            f"{path}: the Delta log cannot be read ({describe_cause(error)}). "
            "Nothing was changed. Restore the missing or damaged files of the `_delta_log` folder."
        ) from error


def _open_table(path: Location, version: int | None) -> DeltaTable:
    return DeltaTable(str(path), version=version, storage_options=build_delta_options(path))


def _check_complete(log: TableLog) -> None:
    """Check that no power cut left the log short at the end of a line. Readers would take it for complete.

    Beside most commits, the writer records how many files the table then has. In a bucket a file is never partial.

    Raises:
        ValueError: The log lacks files, or has files that were removed.
    """
    if not isinstance(log.path, Path):
        return
    commit = log.path / "_delta_log" / f"{log.version:020d}.json"
    if commit.is_file() and not commit.stat().st_size:
        raise ValueError(f"{commit.name} is empty")
    try:
        checksum = json.loads(commit.with_suffix(".crc").read_text(encoding="utf-8"))
        expected = (checksum["numFiles"], checksum["tableSizeBytes"])
    except (OSError, ValueError, KeyError):  # The file is optional, and is written after the commit.
        return
    actual = (log.count_files(), log.count_bytes())
    if expected != actual:
        raise ValueError(
            f"the checksum file counts {expected[0]} files of {expected[1]} bytes, "
            f"but the log lists {actual[0]} files of {actual[1]} bytes"
        )


def count_written_rows(path: Location) -> int:
    """Return the rows that the table's last recorded commit wrote, by Delta's own count."""
    log = open_log(path)
    return log.last.rows_written if log and log.last else 0


def read_last_record(path: Location) -> Record | None:
    """Read the newest record of the table at a path; None where there is none."""
    log = open_log(path)
    entry = log.last if log else None
    return entry.record if entry else None


def _parse_entry(commit: dict[str, Any]) -> Entry:
    metrics = commit.get("operationMetrics") or {}
    return Entry(
        version=int(commit["version"]),
        committed_at=datetime.fromtimestamp(commit.get("timestamp", 0) / 1000, tz=UTC),
        operation=str(commit.get("operation", "")),
        metrics=metrics if isinstance(metrics, dict) else json.loads(metrics),
        record=Record.from_json(commit.get("userMetadata")),
        mode=str((commit.get("operationParameters") or {}).get("mode", "")),
    )


_SPARK_NAMES = {"long": "bigint", "integer": "int", "short": "smallint", "byte": "tinyint"}


def _to_sql_type(kind: Any) -> str:
    """Return the Spark SQL name of a Delta schema type."""
    if isinstance(kind, str):
        return _SPARK_NAMES.get(kind, kind)
    if kind["type"] == "array":
        return f"array<{_to_sql_type(kind['elementType'])}>"
    if kind["type"] == "map":
        return f"map<{_to_sql_type(kind['keyType'])},{_to_sql_type(kind['valueType'])}>"
    fields: Iterable[dict[str, Any]] = kind["fields"]
    return "struct<" + ",".join(f"{f['name']}:{_to_sql_type(f['type'])}" for f in fields) + ">"
