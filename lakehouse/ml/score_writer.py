"""Writes of scores and monitoring results to the tables of predictions, quality and drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lakehouse.catalog import Catalog
from lakehouse.clock import now
from lakehouse.definitions.tables import Table, incremental
from lakehouse.definitions.write_modes import Merge
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import InputVersion, Record, Run
from lakehouse.engine.base import Commit, Engine, Tables, Target
from lakehouse.ml.monitoring import MonitoringReport
from lakehouse.ml.task import Task
from lakehouse.runs import context
from lakehouse.settings import Settings
from lakehouse.storage.location import Location

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

MODEL_KEY = ("model_name", "model_version")
# A score that differs from the existing one only in these columns is unchanged.
IGNORED_COLUMNS = ("feature_version", "alias")


def write_monitoring(engine: Engine, settings: Settings, report: MonitoringReport, run: Run) -> dict[str, int]:
    """Merge a report into the task's tables of quality and drift, and return the written rows by table."""
    merge = ScoreMerge(engine, context.open_catalog(settings), report.features.task, run, report.features.version)
    tables = group_rows_by_table(report).items()
    return {table: merge(table, merge.tables.from_arrow(rows), key)[1] for table, (rows, key) in tables}


def group_rows_by_table(report: MonitoringReport) -> dict[str, tuple[pa.Table, tuple[str, ...]]]:
    """Return the rows for each of the task's tables, and their key without the model's version."""
    task = report.features.task
    return {
        task.quality_table: (report.quality, (task.time_column,)),
        task.drift_table: (report.drift, (task.time_column, "feature")),
    }


def has_changes(path: Location, rows: pa.Table, time: str) -> bool:
    """Return whether a table lacks some of the rows or has other values in them, apart from the feature version."""
    import pyarrow.dataset as ds

    log = table_log.open_log(path)
    columns = [name for name in rows.column_names if name != "feature_version"]
    if log is None or not {*columns} <= {*log.read_columns()}:
        return bool(rows.num_rows)
    in_days = ds.field(time).isin(rows[time].combine_chunks())
    existing = log.open_dataset().to_table(columns, in_days)
    existing_rows = {tuple(row.values()) for row in existing.to_pylist()}
    return any(tuple(row.values()) not in existing_rows for row in rows.select(columns).to_pylist())


@dataclass(frozen=True)
class ScoreMerge:
    """A merge of rows about scores into a table, by a key and the model's version.

    Attributes:
        feature_version: the version of the feature table that the rows are from.
    """

    engine: Engine
    catalog: Catalog
    task: Task
    run: Run
    feature_version: int

    @cached_property
    def tables(self) -> Tables:
        return self.engine.open_tables()

    def __call__(self, name: str, rows: DataFrame, key: Sequence[str]) -> tuple[int, int]:
        """Write the rows that differ from the existing ones in more than IGNORED_COLUMNS.

        Returns:
            The number of all rows, and the number of written rows.
        """
        return self.engine.retry_on_conflict(name, lambda: self._attempt(name, rows, key))

    def _attempt(self, name: str, rows: DataFrame, key: Sequence[str]) -> tuple[int, int]:
        from lakehouse.writes.transforms import classify  # It needs pyspark, which a training does not.

        path = self.catalog.get_path(name)
        log = table_log.open_log(path)
        record = log.last.record if log and log.last else None
        kinds = {field.name: field.dataType.simpleString() for field in rows.schema}
        inputs = {"features": incremental(self.task.feature_table)}
        table = Table(name, lambda: rows, kinds, Merge(), inputs, (*key, *MODEL_KEY))
        target = Target(name, path, tuple(dict.fromkeys((*table.key, self.task.time_column))), has_change_feed=False)
        classified = rows.selectExpr("*", "'new' AS _class")
        if record is not None:
            existing = log.read_columns() if log else {}
            self.tables.prepare(target, {column: kind for column, kind in kinds.items() if column not in existing})
            classified = classify(table, rows, self.tables.read_latest(path), rows.columns, IGNORED_COLUMNS)
        classified.persist()  # the model predicts each row once
        try:
            counts = {row["_class"]: int(row["count"]) for row in classified.groupBy("_class").count().collect()}
            total, same = sum(counts.values()), counts.get("same", 0)
            if total > same:
                changed = classified.where("_class <> 'same'").select(*rows.columns)
                commit = self._commit(name, record, total - same, same)
                if record is None:
                    self.tables.overwrite(changed, target, commit)
                elif counts.get("newer"):
                    self.tables.merge(changed, target, commit, table.key, "", None)
                else:
                    self.tables.append(changed, target, commit)
            return total, total - same
        finally:
            classified.unpersist()

    def _commit(self, name: str, before: Record | None, written: int, unchanged: int) -> Commit:
        self.run.lease.check()
        features = table_log.read_last_record(self.catalog.get_path(self.task.feature_table))
        consumed = InputVersion(self.feature_version, features.generation if features else 1)
        counts = {"written": written, "unchanged": unchanged}
        inputs = {self.task.feature_table: consumed}
        batch, generation = (before.batch + 1, before.generation) if before else (1, 1)
        revision, model = self.run.revision, self.task.name
        return Commit(name, Record(self.run.id, batch, generation, inputs, counts, revision, model, now()))
