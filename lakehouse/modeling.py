"""Training and scoring on the lake: feature tables in, registry and predictions table out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from lakehouse import app, delta, log, reproducing, training, tuning
from lakehouse.declare import Merge, Table, drives
from lakehouse.delta import Commit, Target
from lakehouse.errors import ModelError
from lakehouse.features import Model, Splits, Task
from lakehouse.frames import classed
from lakehouse.ledger import Consumed, Record, Run, now
from lakehouse.monitoring import Watched, later_splits, watch
from lakehouse.plan import Lake
from lakehouse.registering import Registry, TrainResult
from lakehouse.reproducing import Reproduced
from lakehouse.run import revision
from lakehouse.scoring import ReportResult, load, realised, report, score_frame
from lakehouse.session import spark_session
from lakehouse.settings import Settings
from lakehouse.storage import Location
from lakehouse.trials import On
from lakehouse.tuning import TuneResult

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)
MODEL_KEY = ("model_name", "model_version")


@dataclass(frozen=True)
class Scored:
    """What a scoring did: rows written to the table of predictions, and to the table of their quality.

    ``report`` where it covered the model's whole report period and its labels are known.
    """

    model: str
    version: int
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
    """What watching found, the rows written to the tables of quality and of drift, and the challenger that was trained, if any.

    ``retrain`` says whether one was to be trained where there was a finding.
    """

    watched: Watched
    quality_written: int
    drift_written: int
    retrain: bool
    retrained: TrainResult | None


def train(
    settings: Settings,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
    tuned: bool = False,
    splits: Splits | None = None,
) -> TrainResult:
    """Train a declared model on the newest version of its feature table; see `lakehouse.training.train`.

    Parameters that were ``tuned`` are the best of `tune`; ``splits`` stand for those that its task declares.
    """
    models = app.load_models(settings)
    name = app.choose_model(models, name)
    best = tuning.best(name, models[name], settings.trainings) if tuned else None
    if splits:
        models[name] = with_splits(models[name], splits)
    with spark_session(settings, log_file) if models[name].ON_SPARK else nullcontext():
        return training.train(
            name, models, lake=settings.lake, registry=_registry(settings, models[name]), revision=revision(),
            kept=settings.trainings, tuned=best, progress=progress,
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
    with spark_session(settings, log_file) if models[name].ON_SPARK else nullcontext():
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
    model = models.get(recipe.learner)
    with spark_session(settings, log_file) if model and model.ON_SPARK else nullcontext():
        return reproducing.reproduce(recipe, models, lake=settings.lake, revision=revision(), progress=progress)


def _registry(settings: Settings, model: Model) -> Registry:
    return Registry(settings.tracking_uri, settings.artifacts, model.TASK.name)


def score(
    settings: Settings, name: str | None, since: date | None, until: date | None, run: Run, log_file: Path | None
) -> Scored:
    """Score with the champion on a Spark session of its own; without dates, the model's report period.

    Raises:
        ModelError: there is no champion or no feature table; see `lakehouse.scoring`.
        LockError: another run holds the lake.
    """
    models = app.load_models(settings)
    task = app.choose_task(models, name)
    load(task, models, tracking_uri=settings.tracking_uri)  # before Spark starts: without one there is nothing to do
    with app.session_for(settings, run, log_file) as spark:
        return score_on(spark, settings, task, since, until, run)


def score_on(
    spark: SparkSession, settings: Settings, task: Task, since: date | None, until: date | None, run: Run
) -> Scored:
    """Score with the champion into the task's predictions table, one row per key and model version.

    How every model version's scores of these days did is put into its table of quality, one row per day and model version.
    """
    models, report_split = app.load_models(settings), task.splits.report
    first, last = str(since or report_split[0]), str(until or report_split[1])
    champion = load(task, models, tracking_uri=settings.tracking_uri)
    scores = score_frame(champion, task, lake=settings.lake, since=first, until=last)
    if scores.num_rows == 0:
        raise ModelError(f"{task.feature_table} has no rows from {first} to {last}: nothing to score.")
    merge = _Merge(spark.newSession(), app.open_lake(settings), task, run, int(scores["feature_version"][0].as_py()))
    written = merge(task.predictions, scores, task.key)
    quality = realised(task, lake=settings.lake, since=first, until=last, version=merge.feature_version)
    quality_written = merge(task.quality, quality, (task.time,))
    reported = None
    if first <= report_split[0] and last >= report_split[1]:
        try:
            reported = report(task, models, lake=settings.lake, tracking_uri=settings.tracking_uri)
        except ModelError as error:  # the scores stand; what became of the flights may not be known yet
            logger.warning("no report on %s: %s", task.name, error)
    return Scored(
        task.name, champion.version, task.predictions, task.quality, first, last,
        scores.num_rows, written, quality_written, reported,
    )  # fmt: skip


def monitor(
    settings: Settings,
    name: str | None,
    since: date | None,
    until: date | None,
    run: Run,
    *,
    retrain: bool = False,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
) -> Monitored:
    """Watch a task's champion (see `lakehouse.monitoring.watch`), and write what is new of it on a Spark session of its own.

    With ``retrain``, where there is a finding, its learner is trained anew on later days, if there are any; the gate decides
    whether what comes of it is the champion.

    Raises:
        ModelError: there is no champion, feature table or score.
        LockError: there is something to write and another run holds the lake.
    """
    models = app.load_models(settings)
    task = app.choose_task(models, name)
    watched = watch(task, models, lake=settings.lake, tracking_uri=settings.tracking_uri, since=since, until=until)
    lake = app.open_lake(settings)
    made = {task.quality: (watched.quality, (task.time,)), task.drift: (watched.drift, (task.time, "feature"))}
    written = dict.fromkeys(made, 0)
    if any(_differs(lake.path(table), rows, task.time) for table, (rows, _) in made.items()):
        with app.session_for(settings, run, log_file) as spark:
            merge = _Merge(spark.newSession(), lake, task, run, watched.features.version)
            written = {table: merge(table, rows, key) for table, (rows, key) in made.items()}
    retrained = None
    if retrain and watched.findings and (splits := later_splits(watched)):
        learner = next(one for one, model in models.items() if model is watched.champion.model)
        retrained = train(settings, learner, progress, log_file, splits=splits)
    return Monitored(watched, written[task.quality], written[task.drift], retrain, retrained)


def with_splits(model: Model, splits: Splits) -> Model:
    """The model as if its task declared these splits."""
    named = {name: getattr(model, name) for name in dir(Model) if not name.startswith("_")}
    named |= {"__name__": model.__name__, "TASK": replace(model.TASK, splits=splits)}
    return cast("Model", SimpleNamespace(**named))


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

    def __call__(self, name: str, made: pa.Table, key: Sequence[str]) -> int:
        """Write the rows that differ from those there in more than the feature version; returns how many."""
        return delta.after_conflicts(name, lambda: self._attempt(name, made, key))

    def _attempt(self, name: str, made: pa.Table, key: Sequence[str]) -> int:
        path = self.lake.path(name)
        opened = log.open_log(path)
        record = opened.last.record if opened and opened.last else None
        rows = self.spark.createDataFrame(made)
        kinds = {field.name: field.dataType.simpleString() for field in rows.schema}
        inputs = {"features": drives(self.task.feature_table)}
        declared = Table(name, lambda: rows, kinds, Merge(), inputs, (*key, *MODEL_KEY))
        target = Target(name, path, tuple(dict.fromkeys((*declared.key, self.task.time))), change_feed=False)

        def commit(written: int) -> Commit:
            return self._commit(name, record, written, made.num_rows - written)

        if record is None:
            delta.overwrite(rows, target, commit(made.num_rows))
            return int(made.num_rows)
        delta.prepare(
            self.spark, target, {c: kind for c, kind in kinds.items() if opened and c not in opened.columns()}
        )
        there = delta.read_latest(self.spark, path)
        differing = (
            classed(declared, rows, there, rows.columns, ("feature_version",)).where("_class <> 'same'").persist()
        )
        found = {row["_class"]: int(row["count"]) for row in differing.groupBy("_class").count().collect()}
        written = sum(found.values())
        changed = differing.select(*rows.columns)
        if found.get("newer"):
            delta.merge(self.spark, changed, target, commit(written), declared.key, "", None)
        elif written:
            delta.append(changed, target, commit(written))
        differing.unpersist()
        return written

    def _commit(self, name: str, before: Record | None, written: int, unchanged: int) -> Commit:
        self.run.hold.check()
        features = log.last_record(self.lake.path(self.task.feature_table))
        consumed = Consumed(self.feature_version, features.generation if features else 1)
        counts = {"written": written, "unchanged": unchanged}
        inputs = {self.task.feature_table: consumed}
        batch, generation = (before.batch + 1, before.generation) if before else (1, 1)
        revision, model = self.run.revision, self.task.name
        return Commit(name, Record(self.run.id, batch, generation, inputs, counts, revision, model, now()))
