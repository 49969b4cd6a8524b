"""The only door to Delta on Spark: read, changes, append, overwrite, replace, merge, each write a fenced, recorded commit."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import delta.exceptions.captured  # has conflicts raised as what they are
from pyspark.sql import functions as F

from lakehouse.definitions.identifiers import escaped
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import Record, application_id
from lakehouse.errors import LedgerError, first_line
from lakehouse.storage.location import Location, spark_uri

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

T = TypeVar("T")
logger = logging.getLogger(__name__)

_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
_TXN_APP = "spark.databricks.delta.write.txnAppId"
_TXN_VERSION = "spark.databricks.delta.write.txnVersion"

# What Delta raises where another writer's commit came between; the kinds have no base of their own.
CONFLICTS = tuple(getattr(delta.exceptions, name) for name in delta.exceptions.__all__)

# What was computed from a table that another writer has changed since is computed anew, so often, each time after up to so long.
CONFLICT_RETRIES = 3
CONFLICT_SECONDS = 2.0

# How long a table's past stays readable: change feed and time travel need both the log and the removed files.
RETENTION = {
    "delta.logRetentionDuration": "interval 365 days",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}


@dataclass(frozen=True)
class Target:
    """A table to write: where it is, which columns keep statistics, and whether others read its changes."""

    name: str
    path: Location
    stats: tuple[str, ...] = ()
    change_feed: bool = True

    def properties(self) -> dict[str, str]:
        stats = {"delta.dataSkippingStatsColumns": ",".join(self.stats)}
        none = {"delta.dataSkippingNumIndexedCols": "0"}
        feed = {"delta.enableChangeDataFeed": str(self.change_feed).lower()}
        return {**RETENTION, **feed, **(stats if self.stats else none)}


@dataclass(frozen=True)
class Commit:
    """A record, and the transaction id that keeps its batch from being written twice.

    With a ``fence`` (`lakehouse.storage.lease.Hold`) the same batch may be written again, but by nobody who held the lake earlier.
    """

    table: str
    record: Record
    fence: int | None = None

    def options(self) -> dict[str, str]:
        fenced = self.fence is not None
        return {
            "userMetadata": self.record.to_json(),
            "txnAppId": application_id(self.table, 0 if fenced else self.record.generation),
            "txnVersion": str(self.fence if fenced else self.record.batch),
        }


def after_conflicts(table: str, attempt: Callable[[], T]) -> T:
    """What the attempt at a commit gives, from its decision on; made again where another writer's commit came between."""
    for _ in range(CONFLICT_RETRIES):
        try:
            return attempt()
        except CONFLICTS as error:
            logger.warning("%s is decided anew, as another writer's commit came before: %s", table, first_line(error))
            time.sleep(random.uniform(0, CONFLICT_SECONDS))  # noqa: S311  # nobody gains by guessing it
    return attempt()


def read(spark: SparkSession, path: Location, version: int) -> DataFrame:
    """The table as it was at ``version``."""
    return spark.read.format("delta").option("versionAsOf", version).load(spark_uri(path))


def read_latest(spark: SparkSession, path: Location) -> DataFrame:
    return spark.read.format("delta").load(spark_uri(path))


def changes(spark: SparkSession, path: Location, after: int, until: int) -> DataFrame:
    """Rows inserted, updated (old and new image) and deleted in versions (after, until]; see `_change_type`."""
    reader = spark.read.format("delta").option("readChangeFeed", "true")
    return reader.option("startingVersion", after + 1).option("endingVersion", until).load(spark_uri(path))


def append(rows: DataFrame, target: Target, commit: Commit, *, grows: bool = False) -> None:
    """Add the rows; where the table ``grows``, also the columns that only they have."""
    _write(rows, target, commit, "append", {"mergeSchema": str(grows).lower()})


def overwrite(rows: DataFrame, target: Target, commit: Commit) -> None:
    """Make the table anew, with the rows' schema."""
    _write(rows, target, commit, "overwrite", {"overwriteSchema": "true"})


def replace(rows: DataFrame, target: Target, commit: Commit, predicate: str, *, grows: bool = False) -> None:
    """Put the rows in the place of those that the predicate (SQL) selects, in one commit; see `append` for ``grows``."""
    _write(rows, target, commit, "overwrite", {"replaceWhere": predicate, "mergeSchema": str(grows).lower()})


def merge(
    spark: SparkSession,
    rows: DataFrame,
    target: Target,
    commit: Commit,
    key: Sequence[str],
    prune: str,
    delete: str | None,
) -> None:
    """Update and insert the rows by key; those for which ``delete`` (a column of theirs) is true are deleted.

    ``prune`` is a SQL condition on the target (alias t) that every matching row satisfies: with it Delta skips files.
    """
    from delta.tables import DeltaTable

    on = " AND ".join([*(f"t.`{c}` = s.`{c}`" for c in key), *([prune] if prune else [])])
    values: dict[str, str | Column] = {f"`{c}`": F.col(f"s.`{c}`") for c in rows.columns if c != delete}
    gone = f"s.`{delete}`" if delete else "false"
    with _set(spark, commit):
        merging = DeltaTable.forPath(spark, spark_uri(target.path)).alias("t").merge(rows.alias("s"), on)
        if delete:
            merging = merging.whenMatchedDelete(gone)
        merging = merging.whenMatchedUpdate(f"NOT {gone}", values)
        merging.whenNotMatchedInsert(f"NOT {gone}", values).execute()
    _verify(target, commit)


def restore(spark: SparkSession, target: Target, commit: Commit, version: int) -> None:
    """Make the table what it was at a version, columns and properties too, as a new version.

    RESTORE takes the record from the session, but no transaction id: that it is done twice is harmless, and Delta refuses it
    where another commit comes between.
    """
    from delta.tables import DeltaTable

    with _set(spark, commit):
        DeltaTable.forPath(spark, spark_uri(target.path)).restoreToVersion(version)
    _verify(target, commit)


def empty(spark: SparkSession, target: Target, commit: Commit) -> None:
    """Leave the table without rows; its columns and properties stay."""
    none = read_latest(spark, target.path).limit(0)
    none.write.format("delta").mode("overwrite").options(**commit.options()).save(spark_uri(target.path))
    _verify(target, commit)


@contextmanager
def _set(spark: SparkSession, commit: Commit) -> Iterator[None]:
    """The commit's record and transaction id in the session's settings, for what has no writer options."""
    settings = dict(zip((_METADATA, _TXN_APP, _TXN_VERSION), commit.options().values(), strict=True))
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        yield
    finally:
        # A transaction setting that is left behind makes later writes of the session vanish.
        for name in settings:
            spark.conf.unset(name)


def rows_written(target: Target) -> int:
    """The rows that the table's last recorded commit wrote, by Delta's own count."""
    table = table_log.open_log(target.path)
    entry = table.last if table else None
    return entry.written if entry else 0


def prepare(spark: SparkSession, target: Target, added: Mapping[str, str]) -> None:
    """Add columns to a table that is there, null in its rows, and turn its change feed on where a reader came to need it."""
    table = table_log.open_log(target.path)
    if table is None:
        return
    name = f"delta.{escaped(spark_uri(target.path))}"
    if added:
        spark.sql(f"ALTER TABLE {name} ADD COLUMNS ({', '.join(f'`{c}` {kind}' for c, kind in added.items())})")
    if target.change_feed and not table.keeps_changes():
        spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')")


def _write(rows: DataFrame, target: Target, commit: Commit, mode: str, options: Mapping[str, str]) -> None:
    writer = rows.write.format("delta").mode(mode).options(**target.properties()).options(**commit.options())
    writer.options(**options).save(spark_uri(target.path))
    _verify(target, commit)


def _verify(target: Target, commit: Commit) -> None:
    """Check that the commit is there: Delta skips a used transaction version without a word."""
    table = table_log.open_log(target.path)
    entry = table.last if table else None
    if (
        entry is None
        or entry.record is None
        or (entry.record.run, entry.record.batch) != (commit.record.run, commit.record.batch)
    ):
        raise LedgerError(
            f"{target.name}: batch {commit.record.batch} was not committed by this run; another writer used its number. "
            "Run again: it goes on from what the table holds."
        )
