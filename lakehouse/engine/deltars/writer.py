"""Commits of Parquet files by delta-rs: each is one fenced and recorded commit. Needs no JVM."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from lakehouse.deltalog.table_log import TableLog, open_log
from lakehouse.engine import verification
from lakehouse.engine.base import CHECKPOINTS, Commit, Target
from lakehouse.engine.deltars.checksum import write_checksum
from lakehouse.engine.verification import build_number_error
from lakehouse.errors import CommitConflictError, DamagedFileError, LedgerError, StorageError
from lakehouse.landing.reader.part_statistics import describe_statistics
from lakehouse.landing.reader.staging import put_into
from lakehouse.storage import location, s3
from lakehouse.storage.location import build_delta_options

if TYPE_CHECKING:
    from lakehouse.landing.reader.staging import Part

ZSTD = WriterProperties(compression="ZSTD")
# The error of delta-rs where the number of a version was in use at each of its attempts.
_OUT_OF_ATTEMPTS = re.compile(r"Failed to commit transaction: \d+$")


class DeltaRsWriter:
    """`lakehouse.engine.base.FileWriter` by delta-rs."""

    def prepare(self, target: Target, added: Mapping[str, pa.DataType]) -> None:
        log = open_log(target.path)
        if log is None:
            return
        self.add_columns(target, log, pa.schema(list(added.items())))
        current = log.delta_table.metadata().configuration
        missing_properties = {name: value for name, value in CHECKPOINTS.items() if name not in current}
        if target.has_change_feed and not log.has_change_feed():
            missing_properties["delta.enableChangeDataFeed"] = "true"
        if missing_properties:
            _alter(target, log, lambda: log.delta_table.alter.set_table_properties(missing_properties))

    def append(
        self,
        parts: Sequence[Part],
        schema: pa.Schema,
        target: Target,
        commit: Commit,
        *,
        can_add_columns: bool = False,
    ) -> None:
        log = open_log(target.path)
        if log is None:
            self._create(parts, schema, target, commit)
            return
        if can_add_columns:
            self.add_columns(target, log, schema)
        self._commit_files(log, "append", parts, schema, target, commit)

    def overwrite(self, parts: Sequence[Part], schema: pa.Schema, target: Target, commit: Commit) -> None:
        log = open_log(target.path)
        if log is None:
            self._create(parts, schema, target, commit)
            return
        properties = target.compose_properties()
        current = log.delta_table.metadata().configuration
        if changed := {name: value for name, value in properties.items() if current.get(name) != value}:
            _alter(target, log, lambda: log.delta_table.alter.set_table_properties(changed))
        self._commit_files(log, "overwrite", parts, schema, target, commit)

    def replace(
        self,
        parts: Sequence[Part],
        schema: pa.Schema,
        target: Target,
        commit: Commit,
        values: Mapping[str, Collection[str | int]],
        *,
        can_add_columns: bool = False,
    ) -> None:
        log = open_log(target.path)
        assert log is not None, "there are rows to replace"
        if can_add_columns:
            self.add_columns(target, log, schema)
        check_fence(log, target, commit)
        commit_once(target, commit, log, lambda: _replace(log.delta_table, parts, _build_predicate(values), commit))

    def add_columns(self, target: Target, log: TableLog, schema: pa.Schema) -> None:
        """Add the columns that the table lacks. They are null in its rows."""
        existing = {name.lower() for name in log.read_columns()}
        added = pa.schema([field for field in schema if field.name.lower() not in existing])
        if added.names:
            _alter(target, log, lambda: log.delta_table.alter.add_columns(Schema.from_arrow(added).fields))

    def _create(self, parts: Sequence[Part], schema: pa.Schema, target: Target, commit: Commit) -> None:
        with _PublishedFiles(parts, target) as files:
            files.commit(
                commit,
                None,
                lambda: create_table_with_add_actions(
                    str(target.path),
                    Schema.from_arrow(schema),
                    files.actions,
                    "error",
                    configuration=target.compose_properties(),
                    storage_options=build_delta_options(target.path),
                    commit_properties=compose_properties(commit, sum(part.row_count for part in parts)),
                ),
            )

    def _commit_files(
        self, log: TableLog, mode: str, parts: Sequence[Part], schema: pa.Schema, target: Target, commit: Commit
    ) -> None:
        check_fence(log, target, commit)
        table = log.delta_table
        with _PublishedFiles(parts, target) as files:
            files.commit(
                commit,
                log,
                lambda: table.create_write_transaction(
                    [*files.actions],
                    mode,
                    Schema.from_arrow(schema),
                    commit_properties=compose_properties(commit, sum(part.row_count for part in parts)),
                ),
            )


class _PublishedFiles:
    """Parts in the folder of their table. They are removed again if their commit was not made.

    Attributes:
        actions: the parts, as a commit adds them.
    """

    def __init__(self, parts: Sequence[Part], target: Target) -> None:
        self.parts, self.target = parts, target
        self.actions: list[AddAction] = []
        self.is_settled = False

    def __enter__(self) -> _PublishedFiles:
        folder = self.target.path
        for part in self.parts:
            statistics = describe_statistics(part.row_count, part.statistics, self.target.stats)
            put_into(folder, part)
            self.actions.append(AddAction(part.path.name, part.size, {}, time.time_ns() // 10**6, True, statistics))
        if isinstance(folder, Path) and self.parts:
            location.sync(folder)
        return self

    def commit(self, commit: Commit, log: TableLog | None, write: Callable[[], None]) -> None:
        """Commit the files."""
        try:
            commit_once(self.target, commit, log, write)
        except CommitConflictError:
            raise
        except BaseException:
            self.is_settled = True  # The log may name the files: a later VACUUM removes those that it does not.
            raise
        self.is_settled = True

    def __exit__(self, *_: object) -> None:
        if not self.is_settled:
            for part in self.parts:
                with suppress(FileNotFoundError):
                    (self.target.path / part.path.name).unlink()


def commit_once(target: Target, commit: Commit, log: TableLog | None, write: Callable[[], None]) -> None:
    """Make a commit. After any error, the log decides whether it was made.

    Raises:
        LedgerError: Another writer used the batch's number.
        CommitConflictError: Another writer committed first.
        StorageError: The store failed.
        DamagedFileError: The disk reports that it did not store a file of the commit.
    """
    try:
        new_log = verification.commit_once(target, commit, write)
    except (LedgerError, DamagedFileError):
        raise
    except Exception as error:
        raise _explain(error, target, log) from error
    write_checksum(new_log)


def _alter(target: Target, log: TableLog, change: Callable[[], None]) -> None:
    """Change columns or properties of a table, in a commit without rows and without a record.

    Raises:
        CommitConflictError: Another writer committed first. A change with a lost answer looks the same.
        StorageError: The store failed.
    """
    try:
        change()
    except Exception as error:
        raise _explain(error, target, log) from error
    write_checksum(log)


def _explain(error: Exception, target: Target, log: TableLog | None) -> Exception:
    if explanation := s3.explain_error(error):
        return StorageError(f"{target.name}: {explanation}")
    if _is_conflict(error, target, log):
        return CommitConflictError(f"{target.name}: another writer committed first. Run again.")
    return error


def _is_conflict(error: Exception, target: Target, log: TableLog | None) -> bool:
    """Return whether another writer committed first. A store may say so although no other commit is there yet."""
    if isinstance(error, CommitFailedError) and _OUT_OF_ATTEMPTS.search(str(error)):
        return True
    now = open_log(target.path)
    return isinstance(error, DeltaError | OSError) and (now.version if now else -1) > (log.version if log else -1)


def check_fence(log: TableLog, target: Target, commit: Commit) -> None:
    """Check that the transaction's version is new. delta-rs would write a used one again.

    Raises:
        LedgerError: Another writer used the batch's number.
    """
    application, version = commit.transaction
    used = log.delta_table.transaction_version(application)
    if used is not None and used >= version:
        raise build_number_error(target, commit)


def compose_properties(commit: Commit, row_count: int, *, has_transaction: bool = True) -> CommitProperties:
    """Return the properties of a commit: its record, its rows, and its transaction id."""
    application, version = commit.transaction
    return CommitProperties(
        custom_metadata={
            "userMetadata": commit.record.to_json(),
            "operationMetrics": {"numOutputRows": str(row_count)},  # as Spark writes it
        },
        max_commit_retries=0,  # After a conflict, the step is decided again.
        app_transactions=[Transaction(application, version)] if has_transaction else None,
    )


def _replace(table: DeltaTable, parts: Sequence[Part], predicate: str, commit: Commit) -> None:
    # A column that a part lacks is null.
    rows = ds.dataset([str(part.path) for part in parts], pa.schema(table.schema()), "parquet").scanner().to_reader()
    properties = compose_properties(commit, sum(part.row_count for part in parts))
    write_deltalake(
        table, rows, mode="overwrite", predicate=predicate, writer_properties=ZSTD, commit_properties=properties
    )


def _build_predicate(values: Mapping[str, Collection[str | int]]) -> str:
    """Build a condition in the dialect of delta-rs, which knows no backslash: a column has one of its values."""
    return " OR ".join(f"{column} IN ({', '.join(sorted(map(_quote, allowed)))})" for column, allowed in values.items())


def _quote(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
