"""Training and scoring on the lake: feature tables in, registry and predictions table out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.errors import PythonException
from pyspark.sql import functions as F

from lakehouse import app, delta, log, reproducing, retraining, training, tuning
from lakehouse.declare import Merge, Table, drives
from lakehouse.delta import Commit, Target
from lakehouse.errors import ModelError
from lakehouse.features import Model, Task, open_features
from lakehouse.frames import classed
from lakehouse.ledger import Consumed, Record, Run, now
from lakehouse.monitoring import Watched, watch
from lakehouse.plan import Lake
from lakehouse.registering import Registry, TrainResult
from lakehouse.reproducing import Reproduced
from lakehouse.run import revision
from lakehouse.scoring import ReportResult, carry, realised, report, scores
from lakehouse.session import LazySession, spark_session
from lakehouse.settings import Settings
from lakehouse.storage import Location
from lakehouse.tracking import CHAMPION
from lakehouse.trials import On
from lakehouse.tuning import TuneResult
from lakehouse.workers import Carried

if TYPE_CHECKING:
    import pyarrow as pa
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


@dataclass(frozen=True)
class Monitored:
    """What watching found, and the rows written to the tables of quality and of drift."""

    watched: Watched
    quality_written: int
    drift_written: int


def train(
    settings: Settings,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
    tuned: bool = False,
) -> TrainResult:
    """Train a declared model on the newest version of its feature table; see `lakehouse.training.train`.

    Parameters that were ``tuned`` are the best of `tune`.
    """
    models = app.load_models(settings)
    name = app.choose_model(models, name)
    best = tuning.best(name, models[name], settings.trainings) if tuned else None
    return _train(settings, name, models, progress, log_file, tuned=best)


def retrain(
    settings: Settings,
    watched: Watched,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
) -> TrainResult | str:
    """Train the champion anew on later days, as `lakehouse.retraining.planned` says; the gate decides which of the two stays.

    Returns in words why nothing was trained, where nothing was.
    """
    models = app.load_models(settings)
    how = retraining.planned(watched, models, tracking_uri=settings.tracking_uri)
    if isinstance(how, str):
        return how
    return _train(
        settings, how.learner, {**models, how.learner: how.model}, progress, log_file,
        tuned=how.tuned, seed=how.seed, version=how.version,
    )  # fmt: skip


def _train(
    settings: Settings,
    name: str,
    models: Mapping[str, Model],
    progress: Callable[[str], None] | None,
    log_file: Path | None,
    **how: Any,
) -> TrainResult:
    with _session_for(models[name], settings, log_file):
        return training.train(
            name, models, lake=settings.lake, registry=_registry(settings, models[name]), revision=revision(),
            kept=settings.trainings, progress=progress, **how,
        )  # fmt: skip


def tune(
    settings: Settings,
    name: str | None,
    trials: int,
    jobs: int,
    on: On,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
) -> TuneResult:
    """Look for a declared model's best parameters, on the newest version of its feature table; see `lakehouse.tuning.tune`."""
    models = app.load_models(settings)
    name = app.choose_model(models, name)
    with _session_for(models[name], settings, log_file):
        return tuning.tune(
            name, models, lake=settings.lake, registry=_registry(settings, models[name]), revision=revision(),
            kept=settings.trainings, trials=trials, jobs=jobs, on=on, dask=settings.dask, progress=progress,
        )  # fmt: skip


def reproduce(
    settings: Settings, run_id: str, progress: Callable[[str], None] | None = None, log_file: Path | None = None
) -> Reproduced:
    """Make a registered model again; see `lakehouse.reproducing.reproduce`."""
    models = app.load_models(settings)
    recipe = reproducing.open_recipe(run_id, settings.tracking_uri)
    with _session_for(models.get(recipe.learner), settings, log_file):
        return reproducing.reproduce(recipe, models, lake=settings.lake, revision=revision(), progress=progress)


def _session_for(model: Model | None, settings: Settings, log_file: Path | None) -> AbstractContextManager[Any]:
    """The Spark session that the model is fitted on, if it is fitted on one."""
    return spark_session(settings, log_file) if model and model.ON_SPARK else nullcontext()


def _registry(settings: Settings, model: Model) -> Registry:
    return Registry(settings.tracking_uri, settings.artifacts, model.TASK.name)


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
    with app.session_for(settings, run, log_file) as session:
        return _score(session, settings, task, model, since, until, run)


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
    return _score(LazySession.of(spark), settings, task, model, since, until, run)


def _score(
    session: LazySession,
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
    if not features.has_rows((first, last)):
        raise ModelError(f"{task.feature_table} has no rows from {first} to {last}: nothing to score.")
    spark = session.isolated()
    merge = _Merge(spark, app.open_lake(settings), task, run, features.version)
    try:
        rows, written = merge(task.predictions, scores(spark, features, first, last, model), task.key)
    except PythonException as error:
        raise ModelError(_told(task, model, error)) from error
    quality = realised(task, lake=settings.lake, since=first, until=last, version=features.version)
    _, quality_written = merge(task.quality, spark.createDataFrame(quality), (task.time,))
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


def monitor(
    settings: Settings,
    name: str | None,
    since: date | None,
    until: date | None,
    run: Run,
    log_file: Path | None = None,
) -> Monitored:
    """Watch a task's champion (see `lakehouse.monitoring.watch`), and write what is new of it on a Spark session of its own.

    Raises:
        ModelError: there is no champion, feature table or score.
        LockError: there is something to write and another run holds the lake.
    """
    models = app.load_models(settings)
    task = app.choose_task(models, name)
    watched = watch(task, models, lake=settings.lake, tracking_uri=settings.tracking_uri, since=since, until=until)
    lake, made = app.open_lake(settings), _watched_rows(watched)
    written = dict.fromkeys(made, 0)
    if any(_differs(lake.path(table), rows, task.time) for table, (rows, _) in made.items()):
        with app.session_for(settings, run, log_file) as session:
            written = write_watched(session.get(), settings, watched, run)
    return Monitored(watched, written[task.quality], written[task.drift])


def write_watched(spark: SparkSession, settings: Settings, watched: Watched, run: Run) -> dict[str, int]:
    """Put what was watched into the task's tables of quality and drift; returns the rows written by table."""
    merge = _Merge(spark.newSession(), app.open_lake(settings), watched.features.task, run, watched.features.version)
    made = _watched_rows(watched).items()
    return {table: merge(table, spark.createDataFrame(rows), key)[1] for table, (rows, key) in made}


def _watched_rows(watched: Watched) -> dict[str, tuple[pa.Table, tuple[str, ...]]]:
    """The rows for each table, and their key but for the model's version."""
    task = watched.features.task
    return {task.quality: (watched.quality, (task.time,)), task.drift: (watched.drift, (task.time, "feature"))}


def _differs(path: Location, made: pa.Table, time: str) -> bool:
    """Whether a table lacks some of the rows, or holds them with other values than their feature version's."""
    import pyarrow.dataset as ds

    there = log.open_log(path)
    columns = [name for name in made.column_names if name != "feature_version"]
    if there is None or not {*columns} <= {*there.columns()}:
        return bool(made.num_rows)
    days = ds.field(time).isin(made[time].combine_chunks())
    known = {tuple(row.values()) for row in there.delta.to_pyarrow_dataset().to_table(columns, days).to_pylist()}
    return any(tuple(row.values()) not in known for row in made.select(columns).to_pylist())


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
        opened = log.open_log(path)
        record = opened.last.record if opened and opened.last else None
        kinds = {field.name: field.dataType.simpleString() for field in made.schema}
        inputs = {"features": drives(self.task.feature_table)}
        declared = Table(name, lambda: made, kinds, Merge(), inputs, (*key, *MODEL_KEY))
        target = Target(name, path, tuple(dict.fromkeys((*declared.key, self.task.time))), change_feed=False)
        rows = made.withColumn("_class", F.lit("new"))
        if record is not None:
            known = opened.columns() if opened else {}
            delta.prepare(self.spark, target, {c: kind for c, kind in kinds.items() if c not in known})
            rows = classed(declared, made, delta.read_latest(self.spark, path), made.columns, IGNORED)
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
