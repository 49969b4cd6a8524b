"""Training and scoring on the lake: feature tables in, registry and predictions table out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse import app, delta, log, training
from lakehouse.declare import Merge, Table, drives
from lakehouse.delta import Commit, Target
from lakehouse.errors import ModelError
from lakehouse.ledger import Consumed, Record, Run, now
from lakehouse.plan import Lake
from lakehouse.run import revision
from lakehouse.scoring import ReportResult, load_champion, report, score_frame
from lakehouse.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)
MODEL_KEY = ("model_name", "model_version")


@dataclass(frozen=True)
class Scored:
    """What a scoring did; ``report`` where it covered the model's whole report period and its labels are known."""

    model: str
    version: int
    table: str
    since: str
    until: str
    rows: int
    written: int
    report: ReportResult | None


def train(
    settings: Settings, name: str | None = None, progress: Callable[[str], None] | None = None
) -> training.TrainResult:
    """Train a declared model on the newest version of its feature table; see `lakehouse.training.train`."""
    module = app.load_model(settings, name)
    return training.train(
        module, lake=settings.lake, tracking_uri=settings.tracking_uri, artifact_root=settings.artifacts,
        experiment=module.NAME, revision=revision(), progress=progress,
    )  # fmt: skip


def score(
    settings: Settings, name: str | None, since: date | None, until: date | None, run: Run, log_file: Path | None
) -> Scored:
    """Score with the champion on a Spark session of its own; without dates, the model's report period.

    Raises:
        ModelError: there is no champion or no feature table; see `lakehouse.scoring`.
        LockError: another run holds the lake.
    """
    module = app.load_model(settings, name)
    load_champion(module, tracking_uri=settings.tracking_uri)  # before Spark starts: without one there is nothing to do
    with app.session_for(settings, run, log_file) as spark:
        return score_on(spark, settings, module, since, until, run)


def score_on(
    spark: SparkSession, settings: Settings, module: Any, since: date | None, until: date | None, run: Run
) -> Scored:
    """Score with the champion and merge the scores into the model's predictions table: one row per key and model version."""
    first, last = str(since or module.SPLITS.report[0]), str(until or module.SPLITS.report[1])
    champion = load_champion(module, tracking_uri=settings.tracking_uri)
    scores = score_frame(
        module, lake=settings.lake, tracking_uri=settings.tracking_uri, since=first, until=last, champion=champion
    )
    if scores.num_rows == 0:
        raise ModelError(f"{module.FEATURE_TABLE} has no rows from {first} to {last}: nothing to score.")
    lake = app.open_lake(settings)
    written = _write(spark.newSession(), lake, module, scores, run)
    reported = None
    if first <= module.SPLITS.report[0] and last >= module.SPLITS.report[1]:
        try:
            reported = report(module, lake=settings.lake, tracking_uri=settings.tracking_uri)
        except ModelError as error:  # the scores stand; what became of the flights may not be known yet
            logger.warning("no report on %s: %s", module.NAME, error)
    return Scored(module.NAME, champion.version, module.PREDICTIONS, first, last, scores.num_rows, written, reported)


def _write(spark: SparkSession, lake: Lake, module: Any, scores: pa.Table, run: Run) -> int:
    """Merge the scores that differ from those there; returns how many were written."""
    from pyspark.sql import functions as F

    from lakehouse.frames import classed

    rows = spark.createDataFrame(scores)
    rows = rows.select(*[c for c in rows.columns if c != "feature_version"], "feature_version")
    kinds = {field.name: field.dataType.simpleString() for field in rows.schema}
    declared = Table(
        module.PREDICTIONS,
        lambda: rows,
        kinds,
        Merge(),
        {"features": drives(module.FEATURE_TABLE)},
        (*module.KEY, *MODEL_KEY),
    )
    path = lake.path(declared.name)
    record = log.last_record(path)
    feature_record = log.last_record(lake.path(module.FEATURE_TABLE))
    inputs = {
        module.FEATURE_TABLE: Consumed(
            int(scores["feature_version"][0].as_py()), feature_record.generation if feature_record else 1
        )
    }
    target = Target(declared.name, path, (*declared.key, module.TIME), change_feed=False)
    batch = record.batch + 1 if record else 1

    def commit(written: int) -> Commit:
        counts = {"written": written, "unchanged": scores.num_rows - written}
        return Commit(declared.name, Record(run.id, batch, 1, inputs, counts, run.revision, module.NAME, now()))

    if record is None:
        delta.overwrite(rows, target, commit(scores.num_rows))
        return int(scores.num_rows)
    ignored = ("feature_version",)
    differing = classed(declared, rows, delta.read_latest(spark, path), list(rows.columns), ignored).where(
        "_class <> 'same'"
    )
    differing = differing.persist()
    found = {row["_class"]: int(row["count"]) for row in differing.groupBy("_class").count().collect()}
    written = sum(found.values())
    rows = differing.select(*[F.col(c) for c in rows.columns])
    if found.get("newer"):
        delta.merge(spark, rows, target, commit(written), declared.key, "", None)
    elif written:
        delta.append(rows, target, commit(written))
    differing.unpersist()
    return written
