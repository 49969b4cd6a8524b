"""Training and scoring on the lake: feature tables in, registry and predictions table out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from lakehouse.deltalog.commit_record import Run
from lakehouse.engine import open_engine
from lakehouse.engine.base import Engine
from lakehouse.errors import ModelError
from lakehouse.ml import models as declared_models
from lakehouse.ml import reproduction as reproducing
from lakehouse.ml import retraining, training
from lakehouse.ml.dataset import open_features
from lakehouse.ml.mlflow_client import CHAMPION
from lakehouse.ml.monitoring import MonitoringReport, monitor_champion
from lakehouse.ml.registry import Registry
from lakehouse.ml.reproduction import ReproductionResult
from lakehouse.ml.score_writer import ScoreMerge, group_rows_by_table, has_changes, write_monitoring
from lakehouse.ml.scoring import EvaluationResult, broadcast_model, evaluate_test_split, measure_quality
from lakehouse.ml.spark_scoring import ModelBundle, explain_worker_errors, score_features
from lakehouse.ml.task import Model, Task
from lakehouse.ml.training_record import TrainResult
from lakehouse.ml.tuning import search
from lakehouse.ml.tuning.search import TuneResult
from lakehouse.ml.tuning.trials import Backend
from lakehouse.runs import context
from lakehouse.runs.context import get_revision
from lakehouse.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreResult:
    """Result of a scoring.

    Attributes:
        rows: the scored rows.
        written: the rows written to the table of predictions.
        quality_written: the rows written to the table of quality.
        evaluation: set if the champion scored the whole test split and its labels are known.
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
    evaluation: EvaluationResult | None


@dataclass(frozen=True)
class MonitorResult:
    """Result of monitoring: the report, and the rows written to the tables of quality and of drift."""

    report: MonitoringReport
    quality_written: int
    drift_written: int


def train(
    settings: Settings,
    name: str | None = None,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
    tuned: bool = False,
) -> TrainResult:
    """Train a declared model on the newest version of its feature table; see `lakehouse.ml.training.train`.

    Args:
        tuned: train only the best parameters of `tune`.
    """
    models = declared_models.load_models(settings)
    name = declared_models.choose_model(models, name)
    best = search.find_best_params(name, models[name], settings.trainings) if tuned else None
    return _train(settings, name, models, progress, log_file, tuned=best)


def retrain(
    settings: Settings,
    report: MonitoringReport,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
) -> TrainResult | str:
    """Train the champion again on later days; see `lakehouse.ml.retraining.plan_retraining`.

    Returns:
        The result of the training, or the reason why nothing was trained.
    """
    models = declared_models.load_models(settings)
    plan = retraining.plan_retraining(report, models, tracking_uri=settings.tracking_uri)
    if isinstance(plan, str):
        return plan
    models = {**models, plan.learner: plan.model}
    options = {"tuned": plan.tuned, "seed": plan.seed, "version": plan.version}
    return _train(settings, plan.learner, models, progress, log_file, **options)


def _train(
    settings: Settings,
    name: str,
    models: Mapping[str, Model],
    progress: Callable[[str], None] | None,
    log_file: Path | None,
    **options: Any,
) -> TrainResult:
    with _open_engine(models[name], settings, log_file):
        return training.train(
            name,
            models,
            lake=settings.lake,
            registry=_open_registry(settings, models[name]),
            revision=get_revision(settings.project),
            pending_folder=settings.trainings,
            progress=progress,
            **options,
        )


def tune(
    settings: Settings,
    name: str | None,
    trials: int,
    jobs: int,
    backend: Backend,
    progress: Callable[[str], None] | None = None,
    log_file: Path | None = None,
) -> TuneResult:
    """Search a declared model's best parameters on the newest version of its feature table; see `search.tune`."""
    models = declared_models.load_models(settings)
    name = declared_models.choose_model(models, name)
    with _open_engine(models[name], settings, log_file):
        return search.tune(
            name,
            models,
            lake=settings.lake,
            registry=_open_registry(settings, models[name]),
            revision=get_revision(settings.project),
            studies_folder=settings.trainings,
            trials=trials,
            jobs=jobs,
            backend=backend,
            dask=settings.dask,
            progress=progress,
        )


def reproduce(
    settings: Settings, run_id: str, progress: Callable[[str], None] | None = None, log_file: Path | None = None
) -> ReproductionResult:
    """Reproduce a registered model; see `lakehouse.ml.reproduction.reproduce`."""
    models = declared_models.load_models(settings)
    recipe = reproducing.open_recipe(run_id, settings.tracking_uri)
    with _open_engine(models.get(recipe.learner), settings, log_file):
        return reproducing.reproduce(
            recipe, models, lake=settings.lake, revision=get_revision(settings.project), progress=progress
        )


@contextmanager
def _open_engine(model: Model | None, settings: Settings, log_file: Path | None) -> Iterator[None]:
    """Run an engine for a model that is fitted on Spark; do nothing for others."""
    if not (model and model.ON_SPARK):
        yield
        return
    with open_engine(settings, log_file) as engine:
        engine.start()
        yield


def _open_registry(settings: Settings, model: Model) -> Registry:
    return Registry(settings.tracking_uri, settings.artifacts, model.TASK.name)


def score(
    settings: Settings,
    name: str | None,
    since: date | None,
    until: date | None,
    run: Run,
    log_file: Path | None,
    alias: str = CHAMPION,
) -> ScoreResult:
    """Score a range of days on a new Spark session; without dates, the task's test split.

    Raises:
        ModelError: no model has the alias, or there is no feature table; see `lakehouse.ml.scoring`.
        LockError: another run holds the lake.
    """
    models = declared_models.load_models(settings)
    task = declared_models.choose_task(models, name)
    # Before Spark starts, because without a valid model there is nothing to score.
    model = broadcast_model(task, models, tracking_uri=settings.tracking_uri, alias=alias)
    with context.open_locked_engine(settings, run, log_file) as engine:
        return _score(engine, settings, task, model, since, until, run)


def score_on(
    engine: Engine,
    settings: Settings,
    task: Task,
    since: date | None,
    until: date | None,
    run: Run,
    alias: str = CHAMPION,
) -> ScoreResult:
    """Score on a running engine, under a lock that the caller holds; see `score`."""
    model = broadcast_model(
        task, declared_models.load_models(settings), tracking_uri=settings.tracking_uri, alias=alias
    )
    return _score(engine, settings, task, model, since, until, run)


def _score(
    engine: Engine,
    settings: Settings,
    task: Task,
    model: ModelBundle,
    since: date | None,
    until: date | None,
    run: Run,
) -> ScoreResult:
    """Score into the task's table of predictions, one row per key and model version.

    The quality of all versions' scores of these days is written to the task's table of quality.
    """
    first, last = str(since or task.splits.test[0]), str(until or task.splits.test[1])
    features = open_features(task, settings.lake, ())
    if not features.has_rows((first, last)):
        raise ModelError(f"{task.feature_table} has no rows from {first} to {last}: nothing to score.")
    merge = ScoreMerge(engine, context.open_catalog(settings), task, run, features.version)
    with explain_worker_errors(task, model):
        rows, written = merge(
            task.predictions_table, score_features(merge.tables, features, first, last, model), task.key
        )
    quality = measure_quality(task, lake=settings.lake, since=first, until=last, version=features.version)
    _, quality_written = merge(task.quality_table, merge.tables.from_arrow(quality), (task.time_column,))
    return ScoreResult(
        model=task.name,
        version=model.version,
        alias=model.alias,
        table=task.predictions_table,
        quality_table=task.quality_table,
        since=first,
        until=last,
        rows=rows,
        written=written,
        quality_written=quality_written,
        evaluation=_evaluate_test_split(settings, task, first, last) if model.alias == CHAMPION else None,
    )


def _evaluate_test_split(settings: Settings, task: Task, first: str, last: str) -> EvaluationResult | None:
    """Evaluate the champion if the scored days cover the test split and its labels are known."""
    if first > task.splits.test[0] or last < task.splits.test[1]:
        return None
    try:
        return evaluate_test_split(
            task, declared_models.load_models(settings), lake=settings.lake, tracking_uri=settings.tracking_uri
        )
    except ModelError as error:  # the scores are written; their labels may not be known yet
        logger.warning("%s was not evaluated on its test split: %s", task.name, error)
        return None


def monitor(
    settings: Settings,
    name: str | None,
    since: date | None,
    until: date | None,
    run: Run,
    log_file: Path | None = None,
) -> MonitorResult:
    """Monitor a task's champion and write new rows on a new Spark session; see `monitor_champion`.

    Raises:
        ModelError: there is no champion, feature table or score.
        LockError: there are rows to write and another run holds the lake.
    """
    models = declared_models.load_models(settings)
    task = declared_models.choose_task(models, name)
    report = monitor_champion(
        task, models, lake=settings.lake, tracking_uri=settings.tracking_uri, since=since, until=until
    )
    lake, tables = context.open_catalog(settings), group_rows_by_table(report)
    written = dict.fromkeys(tables, 0)
    if any(has_changes(lake.get_path(table), rows, task.time_column) for table, (rows, _) in tables.items()):
        with context.open_locked_engine(settings, run, log_file) as engine:
            written = write_monitoring(engine, settings, report, run)
    return MonitorResult(report, written[task.quality_table], written[task.drift_table])
