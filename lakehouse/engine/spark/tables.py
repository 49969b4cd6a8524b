"""Delta tables on Spark: each write is one fenced and recorded commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import delta.exceptions.captured  # turns Delta's conflicts into Python's exceptions
from pyspark.sql import functions as F

from lakehouse.definitions.identifiers import quote_identifier
from lakehouse.deltalog import table_log
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.verification import commit_once
from lakehouse.storage.location import Location, to_spark_uri

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame, SparkSession

_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
_TXN_APP = "spark.databricks.delta.write.txnAppId"
_TXN_VERSION = "spark.databricks.delta.write.txnVersion"

# Delta's errors after a conflict with another writer's commit. The classes have no common base of their own.
CONFLICTS = tuple(getattr(delta.exceptions, name) for name in delta.exceptions.__all__)


class SparkTables:
    """`lakehouse.engine.base.Tables` on a Spark session of its own.

    A merge puts its commit's record into the session's settings, which must not reach another table's commit.
    """

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark

    def read(self, path: Location, version: int) -> DataFrame:
        return self.spark.read.format("delta").option("versionAsOf", version).load(to_spark_uri(path))

    def read_latest(self, path: Location) -> DataFrame:
        return self.spark.read.format("delta").load(to_spark_uri(path))

    def read_changes(self, path: Location, after: int, until: int) -> DataFrame:
        reader = self.spark.read.format("delta").option("readChangeFeed", "true")
        return reader.option("startingVersion", after + 1).option("endingVersion", until).load(to_spark_uri(path))

    def from_arrow(self, rows: pa.Table) -> DataFrame:
        return self.spark.createDataFrame(rows)

    def prepare(self, target: Target, added: Mapping[str, str]) -> None:
        table = table_log.open_log(target.path)
        if table is None:
            return
        name = f"delta.{quote_identifier(to_spark_uri(target.path))}"
        if added:
            columns = ", ".join(f"`{c}` {kind}" for c, kind in added.items())
            self.spark.sql(f"ALTER TABLE {name} ADD COLUMNS ({columns})")
        if target.has_change_feed and not table.has_change_feed():
            self.spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')")

    def append(self, rows: DataFrame, target: Target, commit: Commit, *, can_add_columns: bool = False) -> None:
        self._write(rows, target, commit, "append", {"mergeSchema": str(can_add_columns).lower()})

    def overwrite(self, rows: DataFrame, target: Target, commit: Commit) -> None:
        self._write(rows, target, commit, "overwrite", {"overwriteSchema": "true"})

    def replace(
        self, rows: DataFrame, target: Target, commit: Commit, predicate: str, *, can_add_columns: bool = False
    ) -> None:
        options = {"replaceWhere": predicate, "mergeSchema": str(can_add_columns).lower()}
        self._write(rows, target, commit, "overwrite", options)

    def merge(
        self, rows: DataFrame, target: Target, commit: Commit, key: Sequence[str], prune: str, delete: str | None
    ) -> None:
        from delta.tables import DeltaTable

        on = " AND ".join([*(f"t.`{c}` = s.`{c}`" for c in key), *([prune] if prune else [])])
        values: dict[str, str | Column] = {f"`{c}`": F.col(f"s.`{c}`") for c in rows.columns if c != delete}
        is_deleted = f"s.`{delete}`" if delete else "false"
        with self._commit_settings(commit):
            table = DeltaTable.forPath(self.spark, to_spark_uri(target.path)).alias("t")
            merging = table.merge(rows.alias("s"), on)
            if delete:
                merging = merging.whenMatchedDelete(is_deleted)
            merging = merging.whenMatchedUpdate(f"NOT {is_deleted}", values)
            merging = merging.whenNotMatchedInsert(f"NOT {is_deleted}", values)
            commit_once(target, commit, merging.execute)

    def restore(self, target: Target, commit: Commit, version: int) -> None:
        """Restore a version of the table.

        RESTORE takes the record from the session, but no transaction id. A second restore is harmless, and Delta
        rejects a restore that conflicts with another commit.
        """
        from delta.tables import DeltaTable

        with self._commit_settings(commit):
            table = DeltaTable.forPath(self.spark, to_spark_uri(target.path))
            commit_once(target, commit, lambda: table.restoreToVersion(version))

    def empty(self, target: Target, commit: Commit) -> None:
        no_rows = self.read_latest(target.path).limit(0)
        writer = no_rows.write.format("delta").mode("overwrite").options(**_options(commit))
        commit_once(target, commit, lambda: writer.save(to_spark_uri(target.path)))

    def _write(self, rows: DataFrame, target: Target, commit: Commit, mode: str, options: Mapping[str, str]) -> None:
        writer = (
            rows.write.format("delta").mode(mode).options(**target.compose_properties()).options(**_options(commit))
        )
        commit_once(target, commit, lambda: writer.options(**options).save(to_spark_uri(target.path)))

    @contextmanager
    def _commit_settings(self, commit: Commit) -> Iterator[None]:
        """Set the commit's record and transaction id in the session, for commands without writer options."""
        settings = dict(zip((_METADATA, _TXN_APP, _TXN_VERSION), _options(commit).values(), strict=True))
        try:
            for name, value in settings.items():
                self.spark.conf.set(name, value)
            yield
        finally:
            # With a transaction setting that stays, Delta would skip later writes of the session.
            for name in settings:
                self.spark.conf.unset(name)


def _options(commit: Commit) -> dict[str, str]:
    application, version = commit.transaction
    return {"userMetadata": commit.record.to_json(), "txnAppId": application, "txnVersion": str(version)}
