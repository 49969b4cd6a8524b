"""Training and scoring on the lake: feature tables in, registry and predictions table out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.errors import PythonException
from pyspark.sql import functions as F

from lakehouse import app, delta, log, training
from lakehouse.declare import Merge, Table, drives
from lakehouse.delta import Commit, Target
from lakehouse.errors import ModelError
from lakehouse.features import Task, open_features
from lakehouse.frames import classed
from lakehouse.ledger import Consumed, Record, Run, now
from lakehouse.plan import Lake
from lakehouse.registering import Registry, TrainResult
from lakehouse.run import revision
from lakehouse.scoring import ReportResult, carry, realised, report, scores
from lakehouse.session import spark_session
from lakehouse.settings import Settings
from lakehouse.tracking import CHAMPION
from lakehouse.workers import Carried

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

logger = logging.getLogger(__name__)
MODEL_KEY = ("model_name", "model_version")
# A score that differs from the one there in these alone is the same: which version of the table it was made from, and under
# which alias.
IGNORED = ("feature_version", "alias")


@dataclass(frozen=True)
class Scored:
    """What a scoring did: rows written to the table of predictions, and to the table of their quality.

    ``report`` where it covered the model's whole report period and its labels are known.
    """

    model: str
    version: int
    alias: str
    table: str
    quality_table: str
    since: str
    until: str
    rows: int
    written: int
    quality_written: int
    report: ReportResult | None


def train(
    settings: Settings,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
) -> TrainResult:
    """Train a declared model on the newest version of its feature table; see `lakehouse.training.train`."""
    models = app.load_models(settings)
    name = app.choose_model(models, name)
    registry = Registry(settings.tracking_uri, settings.artifacts, models[name].TASK.name)
    with spark_session(settings, log_file) if models[name].ON_SPARK else nullcontext():
        return training.train(
            name, models, lake=settings.lake, registry=registry, revision=revision(), kept=settings.trainings,
            progress=progress,
        )  # fmt: skip


def score(
    settings: Settings,
    name: str | None,
    since: date | None,
    until: date | None,
    run: Run,
    log_file: Path | None,
    alias: str = CHAMPION,
) -> Scored:
    """Score a range of days on a Spark session of its own; without dates, the model's report period.

    Raises:
        ModelError: no model has the alias, or there is no feature table; see `lakehouse.scoring`.
        LockError: another run holds the lake.
    """
    models = app.load_models(settings)
    task = app.choose_task(models, name)
    # Before Spark starts: without a model whose files are its own there is nothing to do.
    model = carry(task, models, tracking_uri=settings.tracking_uri, alias=alias)
    with app.session_for(settings, run, log_file) as spark:
        return _score(spark, settings, task, model, since, until, run)


def score_on(
    spark: SparkSession,
    settings: Settings,
    task: Task,
    since: date | None,
    until: date | None,
    run: Run,
    alias: str = CHAMPION,
) -> Scored:
    """`score` on a session that is there, under a lock that is held."""
    model = carry(task, app.load_models(settings), tracking_uri=settings.tracking_uri, alias=alias)
    return _score(spark, settings, task, model, since, until, run)


def _score(
    spark: SparkSession,
    settings: Settings,
    task: Task,
    model: Carried,
    since: date | None,
    until: date | None,
    run: Run,
) -> Scored:
    """Score into the task's predictions table, one row per key and model version.

    How every model version's scores of these days did is put into its table of quality, one row per day and model version.
    """
    first, last = str(since or task.splits.report[0]), str(until or task.splits.report[1])
    features = open_features(task, settings.lake, ())
    session = spark.newSession()
    merge = _Merge(session, app.open_lake(settings), task, run, features.version)
    try:
        rows, written = merge(task.predictions, scores(session, features, first, last, model), task.key)
    except PythonException as error:
        raise ModelError(_told(task, model, error)) from error
    if not rows:
        raise ModelError(f"{task.feature_table} has no rows from {first} to {last}: nothing to score.")
    quality = realised(task, lake=settings.lake, since=first, until=last, version=features.version)
    _, quality_written = merge(task.quality, session.createDataFrame(quality), (task.time,))
    return Scored(
        task.name, model.version, model.alias, task.predictions, task.quality, first, last, rows, written, quality_written,
        _report(settings, task, first, last) if model.alias == CHAMPION else None,
    )  # fmt: skip


def _told(task: Task, model: Carried, error: PythonException) -> str:
    """What went wrong in a worker's Python: the last line of its traceback."""
    said, _, _ = str(error).partition("\n\nJVM stacktrace:")
    return (
        f"{task.name} version {model.version} cannot score on Spark's workers: {said.strip().splitlines()[-1]}. Their Python needs "
        f"the project's packages, as the driver's has them, and what {model.module} imports."
    )


def _report(settings: Settings, task: Task, first: str, last: str) -> ReportResult | None:
    """The champion's report, where its whole period was scored and its labels are known."""
    if first > task.splits.report[0] or last < task.splits.report[1]:
        return None
    try:
        return report(task, app.load_models(settings), lake=settings.lake, tracking_uri=settings.tracking_uri)
    except ModelError as error:  # the scores stand; what became of the flights may not be known yet
        logger.warning("no report on %s: %s", task.name, error)
        return None


@dataclass(frozen=True)
class _Merge:
    """Merges rows about scores into a table, by a key and the model's version; ``feature_version`` is what they came from."""

    spark: SparkSession
    lake: Lake
    task: Task
    run: Run
    feature_version: int

    def __call__(self, name: str, made: DataFrame, key: Sequence[str]) -> tuple[int, int]:
        """Write the rows that differ from those there in more than IGNORED; returns how many there are, and how many it wrote."""
        return delta.after_conflicts(name, lambda: self._attempt(name, made, key))

    def _attempt(self, name: str, made: DataFrame, key: Sequence[str]) -> tuple[int, int]:
        path = self.lake.path(name)
        record = log.last_record(path)
        kinds = {field.name: field.dataType.simpleString() for field in made.schema}
        inputs = {"features": drives(self.task.feature_table)}
        declared = Table(name, lambda: made, kinds, Merge(), inputs, (*key, *MODEL_KEY))
        target = Target(name, path, tuple(dict.fromkeys((*declared.key, self.task.time))), change_feed=False)
        rows = made.withColumn("_class", F.lit("new"))
        if record is not None:
            there = delta.read_latest(self.spark, path)
            delta.prepare(self.spark, target, {c: kind for c, kind in kinds.items() if c not in there.columns})
            rows = classed(declared, made, there, made.columns, IGNORED)
        rows.persist()  # a model is asked once
        try:
            found = {row["_class"]: int(row["count"]) for row in rows.groupBy("_class").count().collect()}
            total, same = sum(found.values()), found.get("same", 0)
            if total > same:
                changed = rows.where("_class <> 'same'").select(*made.columns)
                commit = self._commit(name, record, total - same, same)
                if record is None:
                    delta.overwrite(changed, target, commit)
                elif found.get("newer"):
                    delta.merge(self.spark, changed, target, commit, declared.key, "", None)
                else:
                    delta.append(changed, target, commit)
            return total, total - same
        finally:
            rows.unpersist()

    def _commit(self, name: str, before: Record | None, written: int, unchanged: int) -> Commit:
        self.run.hold.check()
        features = log.last_record(self.lake.path(self.task.feature_table))
        consumed = Consumed(self.feature_version, features.generation if features else 1)
        counts = {"written": written, "unchanged": unchanged}
        inputs = {self.task.feature_table: consumed}
        batch, generation = (before.batch + 1, before.generation) if before else (1, 1)
        revision, model = self.run.revision, self.task.name
        return Commit(name, Record(self.run.id, batch, generation, inputs, counts, revision, model, now()))
