"""Scores and what was watched, merged into the tables of predictions, quality and drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lakehouse.catalog import Lake
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
from lakehouse.writes.transforms import classify

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

MODEL_KEY = ("model_name", "model_version")
# A score that differs from the one there in these alone is the same: which version of the table it was made from, and under
# which alias.
IGNORED_COLUMNS = ("feature_version", "alias")


def write_monitoring(engine: Engine, settings: Settings, report: MonitoringReport, run: Run) -> dict[str, int]:
    """Put what was watched into the task's tables of quality and drift; returns the rows written by table."""
    merge = ScoreMerge(engine, context.open_lake(settings), report.features.task, run, report.features.version)
    made = rows_by_table(report).items()
    return {table: merge(table, merge.tables.from_arrow(rows), key)[1] for table, (rows, key) in made}


def rows_by_table(report: MonitoringReport) -> dict[str, tuple[pa.Table, tuple[str, ...]]]:
    """Return the rows for each of the task's tables, and their key without the model's version."""
    task = report.features.task
    return {
        task.quality_table: (report.quality, (task.time_column,)),
        task.drift_table: (report.drift, (task.time_column, "feature")),
    }


def has_changes(path: Location, made: pa.Table, time: str) -> bool:
    """Return whether a table lacks some of the rows, or has other values in them, their feature version aside."""
    import pyarrow.dataset as ds

    there = table_log.open_log(path)
    columns = [name for name in made.column_names if name != "feature_version"]
    if there is None or not {*columns} <= {*there.columns()}:
        return bool(made.num_rows)
    days = ds.field(time).isin(made[time].combine_chunks())
    known = {tuple(row.values()) for row in there.delta_table.to_pyarrow_dataset().to_table(columns, days).to_pylist()}
    return any(tuple(row.values()) not in known for row in made.select(columns).to_pylist())


@dataclass(frozen=True)
class ScoreMerge:
    """Merges rows about scores into a table, by a key and the model's version; ``feature_version`` is what they came from."""

    engine: Engine
    lake: Lake
    task: Task
    run: Run
    feature_version: int

    @cached_property
    def tables(self) -> Tables:
        return self.engine.isolate()

    def __call__(self, name: str, made: DataFrame, key: Sequence[str]) -> tuple[int, int]:
        """Write the rows that differ from those there in more than IGNORED; returns how many there are, and how many it wrote."""
        return self.engine.retry_on_conflict(name, lambda: self._attempt(name, made, key))

    def _attempt(self, name: str, made: DataFrame, key: Sequence[str]) -> tuple[int, int]:
        path = self.lake.path(name)
        opened = table_log.open_log(path)
        record = opened.last.record if opened and opened.last else None
        kinds = {field.name: field.dataType.simpleString() for field in made.schema}
        inputs = {"features": incremental(self.task.feature_table)}
        declared = Table(name, lambda: made, kinds, Merge(), inputs, (*key, *MODEL_KEY))
        target = Target(name, path, tuple(dict.fromkeys((*declared.key, self.task.time_column))), change_feed=False)
        rows = made.selectExpr("*", "'new' AS _class")
        if record is not None:
            known = opened.columns() if opened else {}
            self.tables.prepare(target, {c: kind for c, kind in kinds.items() if c not in known})
            rows = classify(declared, made, self.tables.read_latest(path), made.columns, IGNORED_COLUMNS)
        rows.persist()  # a model is asked once
        try:
            found = {row["_class"]: int(row["count"]) for row in rows.groupBy("_class").count().collect()}
            total, same = sum(found.values()), found.get("same", 0)
            if total > same:
                changed = rows.where("_class <> 'same'").select(*made.columns)
                commit = self._commit(name, record, total - same, same)
                if record is None:
                    self.tables.overwrite(changed, target, commit)
                elif found.get("newer"):
                    self.tables.merge(changed, target, commit, declared.key, "", None)
                else:
                    self.tables.append(changed, target, commit)
            return total, total - same
        finally:
            rows.unpersist()

    def _commit(self, name: str, before: Record | None, written: int, unchanged: int) -> Commit:
        self.run.lease.check()
        features = table_log.read_last_record(self.lake.path(self.task.feature_table))
        consumed = InputVersion(self.feature_version, features.generation if features else 1)
        counts = {"written": written, "unchanged": unchanged}
        inputs = {self.task.feature_table: consumed}
        batch, generation = (before.batch + 1, before.generation) if before else (1, 1)
        revision, model = self.run.revision, self.task.name
        return Commit(name, Record(self.run.id, batch, generation, inputs, counts, revision, model, now()))
