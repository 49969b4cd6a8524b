"""Training and scoring on the lake: feature tables in, registry and predictions table out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse import app, delta, log, training
from lakehouse.declare import Merge, Table, drives
from lakehouse.delta import Commit, Target
from lakehouse.errors import ModelError
from lakehouse.frames import classed
from lakehouse.ledger import Consumed, Record, Run, now
from lakehouse.plan import Lake
from lakehouse.registering import Registry, TrainResult
from lakehouse.run import revision
from lakehouse.scoring import ReportResult, load_champion, realised, report, score_frame
from lakehouse.settings import Settings

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


def train(settings: Settings, name: str | None = None, progress: Callable[[str], None] | None = None) -> TrainResult:
    """Train a declared model on the newest version of its feature table; see `lakehouse.training.train`."""
    module = app.load_model(settings, name)
    registry = Registry(settings.tracking_uri, settings.artifacts, module.NAME)
    return training.train(
        module, lake=settings.lake, registry=registry, revision=revision(), kept=settings.trainings, progress=progress
    )


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
    """Score with the champion into the model's predictions table, one row per key and model version.

    How every model version's scores of these days did is put into its table of quality, one row per day and model version.
    """
    first, last = str(since or module.SPLITS.report[0]), str(until or module.SPLITS.report[1])
    champion = load_champion(module, tracking_uri=settings.tracking_uri)
    scores = score_frame(
        module, lake=settings.lake, tracking_uri=settings.tracking_uri, since=first, until=last, champion=champion
    )
    if scores.num_rows == 0:
        raise ModelError(f"{module.FEATURE_TABLE} has no rows from {first} to {last}: nothing to score.")
    merge = _Merge(spark.newSession(), app.open_lake(settings), module, run, int(scores["feature_version"][0].as_py()))
    written = merge(module.PREDICTIONS, scores, module.KEY)
    quality = realised(module, lake=settings.lake, since=first, until=last, version=merge.feature_version)
    quality_written = merge(module.QUALITY, quality, (module.TIME,))
    reported = None
    if first <= module.SPLITS.report[0] and last >= module.SPLITS.report[1]:
        try:
            reported = report(module, lake=settings.lake, tracking_uri=settings.tracking_uri)
        except ModelError as error:  # the scores stand; what became of the flights may not be known yet
            logger.warning("no report on %s: %s", module.NAME, error)
    return Scored(
        module.NAME, champion.version, module.PREDICTIONS, module.QUALITY, first, last,
        scores.num_rows, written, quality_written, reported,
    )  # fmt: skip


@dataclass(frozen=True)
class _Merge:
    """Merges rows about scores into a table, by a key and the model's version; ``feature_version`` is what they came from."""

    spark: SparkSession
    lake: Lake
    module: Any
    run: Run
    feature_version: int

    def __call__(self, name: str, made: pa.Table, key: Sequence[str]) -> int:
        """Write the rows that differ from those there in more than the feature version; returns how many."""
        return delta.after_conflicts(name, lambda: self._attempt(name, made, key))

    def _attempt(self, name: str, made: pa.Table, key: Sequence[str]) -> int:
        path = self.lake.path(name)
        record = log.last_record(path)
        rows = self.spark.createDataFrame(made)
        kinds = {field.name: field.dataType.simpleString() for field in rows.schema}
        inputs = {"features": drives(self.module.FEATURE_TABLE)}
        declared = Table(name, lambda: rows, kinds, Merge(), inputs, (*key, *MODEL_KEY))
        target = Target(name, path, tuple(dict.fromkeys((*declared.key, self.module.TIME))), change_feed=False)

        def commit(written: int) -> Commit:
            return self._commit(name, record, written, made.num_rows - written)

        if record is None:
            delta.overwrite(rows, target, commit(made.num_rows))
            return int(made.num_rows)
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
        features = log.last_record(self.lake.path(self.module.FEATURE_TABLE))
        consumed = Consumed(self.feature_version, features.generation if features else 1)
        counts = {"written": written, "unchanged": unchanged}
        inputs = {self.module.FEATURE_TABLE: consumed}
        batch, generation = (before.batch + 1, before.generation) if before else (1, 1)
        revision, model = self.run.revision, self.module.NAME
        return Commit(name, Record(self.run.id, batch, generation, inputs, counts, revision, model, now()))
