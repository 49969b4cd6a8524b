"""Protocols of the engines that compute and write tables.

The packages above work with these protocols and with the DataFrame API alone. An engine needs neither Spark's
`newSession`, nor its context, nor Delta's own writer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from lakehouse.deltalog.commit_record import Record, build_application_id
from lakehouse.storage.location import Location

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

    from lakehouse.definitions.sources import Source
    from lakehouse.deltalog.commit_record import Run
    from lakehouse.landing.reader.staging import Part, StagedBatch
    from lakehouse.landing.reader.task import StagingTask
    from lakehouse.landing.zone import LandingZone

T = TypeVar("T")
# Time for which a table's past stays readable. Change feed and time travel need both the log and the removed files.
RETENTION = {
    "delta.logRetentionDuration": "interval 365 days",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}
# Spark's default; that of delta-rs is 100.
CHECKPOINTS = {"delta.checkpointInterval": "10"}


@dataclass(frozen=True)
class Target:
    """A table to write.

    Attributes:
        stats: Columns of which Delta keeps minimum and maximum for each file.
        has_change_feed: Other tables read the changes of this one.
    """

    name: str
    path: Location
    stats: tuple[str, ...] = ()
    has_change_feed: bool = True

    def compose_properties(self) -> dict[str, str]:
        """Return the table's Delta properties."""
        stats = {"delta.dataSkippingStatsColumns": ",".join(self.stats)}
        none = {"delta.dataSkippingNumIndexedCols": "0"}
        feed = {"delta.enableChangeDataFeed": str(self.has_change_feed).lower()}
        return {**RETENTION, **CHECKPOINTS, **feed, **(stats if self.stats else none)}


@dataclass(frozen=True)
class Commit:
    """Record of a commit, with the transaction id that keeps its batch from being written twice.

    Attributes:
        fence: Number of the lake's lock (`lakehouse.storage.lease`). With it the same batch may be written again, but
            not by a process that held an earlier lock.
    """

    table: str
    record: Record
    fence: int | None = None

    @property
    def transaction(self) -> tuple[str, int]:
        """Delta's transaction: the application's id and its version."""
        if self.fence is not None:
            return build_application_id(self.table, 0), self.fence
        return build_application_id(self.table, self.record.generation), self.record.batch


class Tables(Protocol):
    """Reader of tables and writer of one table, isolated from the writes of other tables.

    Each write is one commit with its record, and is verified after the commit.

    Raises:
        LedgerError: Another writer used the batch's number (any write).
        DamagedFileError: The disk reports that it did not store a file of the commit (any write).
    """

    def read(self, path: Location, version: int) -> DataFrame:
        """Read a version of a table."""

    def read_latest(self, path: Location) -> DataFrame:
        """Read the latest version of a table."""

    def read_changes(self, path: Location, after: int, until: int) -> DataFrame:
        """Read the change feed of the versions after ``after``, up to ``until``.

        Column `_change_type` marks inserted rows, deleted rows and both images of updated rows.
        """

    def from_arrow(self, rows: pa.Table) -> DataFrame:
        """Make a frame from rows in memory."""

    def prepare(self, target: Target, added: Mapping[str, str]) -> None:
        """Add columns to an existing table, null in its rows, and add its change feed if it lacks one."""

    def append(self, rows: DataFrame, target: Target, commit: Commit, *, can_add_columns: bool = False) -> None:
        """Append rows.

        Args:
            can_add_columns: Add the columns that only the rows have to the table.
        """

    def overwrite(self, rows: DataFrame, target: Target, commit: Commit) -> None:
        """Replace all rows and the schema."""

    def replace(
        self, rows: DataFrame, target: Target, commit: Commit, predicate: str, *, can_add_columns: bool = False
    ) -> None:
        """Replace the rows that the predicate selects, in one commit.

        Args:
            predicate: A SQL condition.
            can_add_columns: See `append`.
        """

    def merge(
        self, rows: DataFrame, target: Target, commit: Commit, key: Sequence[str], prune: str, delete: str | None
    ) -> None:
        """Update and insert rows by key, in one commit.

        Args:
            prune: A SQL condition on the target (alias t) that every matching row meets. Files outside are skipped.
            delete: A boolean column of the rows. Where it is true, the table's row of that key is deleted.
        """

    def restore(self, target: Target, commit: Commit, version: int) -> None:
        """Restore the rows, columns and properties of a version, as a new version."""

    def empty(self, target: Target, commit: Commit) -> None:
        """Delete all rows. Columns and properties stay."""


class FileWriter(Protocol):
    """Writer of Parquet files that are staged already. Each write is one commit with its record, verified afterwards.

    Raises:
        LedgerError: Another writer used the batch's number (any write).
        DamagedFileError: The disk reports that it did not store a file of the commit (any write).
        CommitConflictError: Another writer committed first (any write).
        StorageError: The store failed (any write).
    """

    def prepare(self, target: Target, added: Mapping[str, pa.DataType]) -> None:
        """Do as `Tables.prepare` does, and set the checkpoint interval if the table has none."""

    def append(
        self,
        parts: Sequence[Part],
        schema: pa.Schema,
        target: Target,
        commit: Commit,
        *,
        can_add_columns: bool = False,
    ) -> None:
        """Append the rows of files, which move into the folder of the table.

        Args:
            schema: The columns of the files.
            can_add_columns: Add the columns that only the files have to the table.
        """

    def overwrite(self, parts: Sequence[Part], schema: pa.Schema, target: Target, commit: Commit) -> None:
        """Replace all rows and the schema."""

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
        """Replace the rows with certain values, in one commit. The files are copied.

        Args:
            values: Values by column. A row with any of them is replaced, and every row of the files has one.
            can_add_columns: See `append`.
        """


class Engine(Protocol):
    """Engine that computes and writes tables. It starts on first use."""

    def start(self) -> None:
        """Start now."""

    def open_tables(self) -> Tables:
        """Return the reader and writer of one table. Start the engine if it has not started.

        Raises:
            SessionError: The engine did not start.
        """

    def stage(self, task: StagingTask, folder: Path, table: Location | None) -> StagedBatch:
        """Read landed files into Parquet files, and return these with a verdict on each landed file.

        Args:
            folder: An empty folder of this machine, for files that this process writes.
            table: The folder of the table, for files that workers write. None: this process writes all files.

        Raises:
            StorageError: The store failed.
            LandingError: The workers cannot read landed files.
        """

    def extract(self, source: Source, landing: LandingZone, scratch: Location, run: Run) -> None:
        """Bring new rows of a source's database into its landing folder.

        Raises:
            SourceError: The database cannot be read.
        """

    def retry_on_conflict(self, table: str, attempt: Callable[[], T]) -> T:
        """Attempt a commit. After a conflict with another writer's commit, attempt it again from its decision."""

    def wait(self, futures: Collection[Future[T]]) -> set[Future[T]]:
        """Wait until at least one future is done, and return the futures that are."""

    def cancel(self) -> None:
        """Cancel all computations. An engine that has not started then never starts."""

    def stop(self) -> None:
        """Stop the engine if it was started."""
