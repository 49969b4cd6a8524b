"""Reading tables without Spark: versions, records, sizes, changed values, from the Delta log by delta-rs."""

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
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from lakehouse.deltalog.commit_record import InputVersion, Record
from lakehouse.errors import LedgerError, StorageError, get_first_line
from lakehouse.storage import s3
from lakehouse.storage.location import Location, build_delta_options, list_names, stat_files

# How many versions are looked through, more each time: each is a file, and nearly always the newest has a record.
SCAN_LIMITS = (1, 32, None)
# What Delta does to a table without a change of its rows.
MAINTENANCE_OPERATIONS = (
    "OPTIMIZE",
    "VACUUM",
    "VACUUM START",
    "VACUUM END",
    "SET TBLPROPERTIES",
    "ADD COLUMNS",
    "UPGRADE PROTOCOL",
    "CHANGE COLUMN",
)
_CHANGE_TYPE = "_change_type"
_COMMIT_FILE = re.compile(r"\.(json|parquet)$")
_MERGE_METRICS = ("numTargetRowsInserted", "numTargetRowsUpdated", "numTargetRowsDeleted")


@dataclass(frozen=True)
class Entry:
    """One version of a table: when (UTC), what Delta did (a write's ``mode`` is Append or Overwrite), and the ledger's record
    where it has one."""

    version: int
    committed_at: datetime
    operation: str
    metrics: dict[str, Any]
    record: Record | None
    mode: str = ""

    @property
    def rows_written(self) -> int:
        """The rows that it wrote, by Delta's count; a replacement by predicate copies their neighbours in the same files."""
        return int(self.metrics.get("numOutputRows", 0)) - int(self.metrics.get("numCopiedRows", 0))

    @property
    def rows(self) -> dict[str, int]:
        """The record's row counts, with Delta's where rows are written without having been counted before."""
        return {"written": self.rows_written, **(self.record.rows if self.record else {})}


class TableLog:
    """A table's log as it stood when opened."""

    def __init__(self, path: Location, table: DeltaTable) -> None:
        self.path = path
        self.delta_table = table

    @property
    def version(self) -> int:
        return int(self.delta_table.version())

    def entries(self, limit: int | None = None) -> list[Entry]:
        """Its versions, newest first."""
        with _translate_store_errors(self.path):
            return [_parse_entry(commit) for commit in self.delta_table.history(limit)]

    @cached_property
    def last(self) -> Entry | None:
        """The newest entry that carries a record."""
        for limit in SCAN_LIMITS:
            entries = self.entries(limit)
            found = next((entry for entry in entries if entry.record), None)
            if found or limit is None or len(entries) < limit:
                return found
        return None

    def columns(self) -> dict[str, str]:
        """Column names and Spark SQL types."""
        return {f["name"]: _to_sql_type(f["type"]) for f in json.loads(self.delta_table.schema().to_json())["fields"]}

    def count_rows(self) -> int:
        return self.measure()[0]

    def count_bytes(self) -> int:
        return self.measure()[1]

    def measure(self, column: str | None = None, days: Sequence[tuple[date, date]] = ()) -> tuple[int, int]:
        """The rows and bytes of its files: of all, or of those that may hold rows whose date in ``column`` is one of the days."""
        adds = self._add_actions
        if column is not None and f"min.{column}" in adds.column_names:
            least, most = adds[f"min.{column}"].to_pylist(), adds[f"max.{column}"].to_pylist()
            kept = [
                low is None or high is None or any(low <= last and first <= high for first, last in days)
                for low, high in zip(least, most, strict=True)
            ]
            adds = adds.filter(pa.array(kept, pa.bool_()))
        rows, size = (int(pc.sum(adds[c]).as_py() or 0) if adds.num_rows else 0 for c in ("num_records", "size_bytes"))
        return rows, size

    def measure_changes(self, after: int) -> tuple[int, int]:
        """The rows that were written or deleted after a version, and the bytes of the files that hold them."""
        rows = size = 0
        for entry in self.entries(max(self.version - after, 0) or 1):
            if entry.version > after:
                merged = [int(entry.metrics.get(name, 0)) for name in _MERGE_METRICS]
                rows += sum(merged) or int(entry.metrics.get("numOutputRows", 0))
                size += int(entry.metrics.get("numOutputBytes") or entry.metrics.get("numTargetBytesAdded") or 0)
        return rows, size

    def list_files(self) -> list[str]:
        """Its files, below the table's folder, as its log names them."""
        return [str(path) for path in self._add_actions["path"].to_pylist()]

    def count_files(self) -> int:
        return int(self._add_actions.num_rows)

    def list_missing_files(self) -> list[str]:
        """Those of its files that are no longer there, as a rule since a VACUUM."""
        paths = [unquote(path) for path in self.list_files()]
        there = stat_files(self.path, paths)
        return [path for path in paths if isinstance(there[path], OSError)]

    @cached_property
    def _add_actions(self) -> pa.Table:
        return pa.table(self.delta_table.get_add_actions(flatten=True))

    def has_change_feed(self) -> bool:
        """Whether its change feed is on."""
        return str(self.delta_table.metadata().configuration.get("delta.enableChangeDataFeed")).lower() == "true"

    def read_changed_values(self, column: str, after: int, until: int) -> set[Any]:
        """The values of ``column`` in every row inserted, deleted or updated (old and new image) in (after, until]."""
        batches = self._read_changes([column], after, until)
        return {value for one in batches for value in pc.unique(one.column(column)).to_pylist()}

    def read_net_changed_values(self, column: str, after: int, until: int, ignored: Sequence[str]) -> set[Any]:
        """The values of ``column`` in the rows that only one of two versions has, whatever they hold in the columns ``ignored``."""
        import duckdb

        found, kinds = set[Any](), set[str]()
        for one in self._read_changes([column, _CHANGE_TYPE], after, until):
            found.update(pc.unique(one.column(column)).to_pylist())
            kinds.update(pc.unique(one.column(_CHANGE_TYPE)).to_pylist())
        if len(kinds) < 2:
            return found  # nothing that could be as it was
        compared = [c for c in self.columns() if c not in ignored]
        names = ", ".join('"' + c.replace('"', '""') + '"' for c in compared)
        net = f"sum(CASE WHEN {_CHANGE_TYPE} IN ('insert', 'update_postimage') THEN 1 ELSE -1 END)"
        batches = self._read_changes([*compared, _CHANGE_TYPE], after, until)
        first = next(batches)
        with duckdb.connect() as connection:  # which sums up what streams by, and needs not hold it
            connection.register("changes", pa.RecordBatchReader.from_batches(first.schema, chain([first], batches)))
            differing = f"SELECT {names} FROM changes GROUP BY {names} HAVING {net} <> 0"
            return {
                value for (value,) in connection.execute(f'SELECT DISTINCT "{column}" FROM ({differing})').fetchall()
            }

    def _read_changes(self, columns: list[str], after: int, until: int) -> Iterator[pa.RecordBatch]:
        """These columns of every row inserted, deleted or updated in (after, until].

        Raises:
            LedgerError: they cannot be read any more.
        """
        if after >= until:
            return
        try:
            with _translate_store_errors(self.path):
                for batch in self.delta_table.load_cdf(
                    starting_version=after + 1, ending_version=until, columns=columns
                ):
                    yield pa.record_batch(batch)
        except StorageError:  # says nothing of the changes
            raise
        except Exception as error:  # what reads the files lazily raises nothing more precise
            raise LedgerError(f"{self.path}: its changes after version {after} cannot be read: {error}") from error


@contextmanager
def _translate_store_errors(path: Location) -> Iterator[None]:
    """Explain the store's faults in words, and name the table whose records have another format."""
    try:
        yield
    except LedgerError as error:
        raise LedgerError(f"{path}: {error}") from error
    except Exception as error:  # of whichever library reads
        if said := s3.explain_error(error):
            raise StorageError(f"{path}: {said}") from error
        raise


def open_log(path: Location, version: int | None = None) -> TableLog | None:
    """The log of the table at ``path``; None where there is no table.

    Raises:
        LedgerError: there is a table, but its log is damaged or the version is gone.
    """
    try:
        table = DeltaTable(str(path), version=version, storage_options=build_delta_options(path))
        opened = TableLog(path, table)
        _check_complete(opened)
        return opened
    except (DeltaError, OSError, ValueError) as error:
        # A first write that failed leaves the folder, with nothing committed in it.
        if isinstance(error, TableNotFoundError) and not any(
            _COMMIT_FILE.search(n) for n in list_names(path / "_delta_log")
        ):
            return None
        if said := s3.explain_error(error):
            raise StorageError(f"{path}: {said}") from error
        raise LedgerError(
            f"{path}: the Delta log cannot be read ({get_first_line(error)}). Nothing was changed; restore the missing log files."
        ) from error


def _check_complete(opened: TableLog) -> None:
    """Refuse a log that a power cut left short at the end of a line: readers take what is there for all there is.

    Delta's writer says beside most commits how many files the table then has. In a bucket a file is there whole or not at all.

    Raises:
        ValueError: files are missing, or are there that were removed.
    """
    if not isinstance(opened.path, Path):
        return
    commit = opened.path / "_delta_log" / f"{opened.version:020d}.json"
    if commit.is_file() and not commit.stat().st_size:
        raise ValueError(f"{commit.name} is empty")
    try:
        said = json.loads(commit.with_suffix(".crc").read_text(encoding="utf-8"))
        wanted = (said["numFiles"], said["tableSizeBytes"])
    except (OSError, ValueError, KeyError):  # it is written after the commit, and need not be
        return
    if wanted != (opened.count_files(), opened.count_bytes()):
        raise ValueError(f"it names {opened.count_files()} files of other sizes than the {wanted[0]} that were written")


def rows_written(path: Location) -> int:
    """Return the rows that the table's last recorded commit wrote, by Delta's own count."""
    table = open_log(path)
    return table.last.rows_written if table and table.last else 0


def read_last_record(path: Location) -> Record | None:
    log = open_log(path)
    entry = log.last if log else None
    return entry.record if entry else None


def filter_effective(entries: Sequence[Entry]) -> list[Entry]:
    """The recorded commits that the table's rows come from, newest first: without those that were taken back, and without the
    commits that took them back."""
    found: list[Entry] = []
    below: int | None = None
    for entry in entries:
        if entry.record is None or (below is not None and entry.version > below):
            continue
        if entry.record.rolled_back_run:
            below = entry.record.restored_version
        else:
            found.append(entry)
    return found


def resolve_version(entries: Sequence[Entry], input_version: InputVersion) -> InputVersion:
    """The version at which the rows of a consumed one stand now: the commit that put the very same rows back, if any did.

    So a reader that has seen nothing of a run that was taken back goes on from there, across the new generation.
    """
    for entry in reversed(entries):
        if entry.record and entry.record.rolled_back_run and entry.record.restored_version == input_version.version:
            input_version = InputVersion(entry.version, entry.record.generation)
    return input_version


def resolve_current_version(log: TableLog | None, input_version: InputVersion) -> InputVersion:
    """`standing` in a log, which is read through only where the table is of another generation by now."""
    record = log.last.record if log and log.last else None
    anew = log and record and record.generation != input_version.generation
    return resolve_version(log.entries(), input_version) if log and anew else input_version


def is_rolled_back(entries: Sequence[Entry], version: int) -> bool:
    """Whether the commit of that version was taken back since."""
    undos = (e for e in entries if e.record and e.record.rolled_back_run)
    return any(e.record.restored_version < version < e.version for e in undos if e.record)


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
    """A Delta schema type in Spark SQL's words."""
    if isinstance(kind, str):
        return _SPARK_NAMES.get(kind, kind)
    if kind["type"] == "array":
        return f"array<{_to_sql_type(kind['elementType'])}>"
    if kind["type"] == "map":
        return f"map<{_to_sql_type(kind['keyType'])},{_to_sql_type(kind['valueType'])}>"
    fields: Iterable[dict[str, Any]] = kind["fields"]
    return "struct<" + ",".join(f"{f['name']}:{_to_sql_type(f['type'])}" for f in fields) + ">"
