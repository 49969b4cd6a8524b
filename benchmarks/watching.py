"""What watching finds in half a year, and what retraining gains: trained to May, chosen on June, watched month by month.

    python -m benchmarks.watching [--scratch FOLDER]

It needs the whole year's feature table (`lakehouse land`, `lakehouse run`) and neither Spark nor the lake's registry. Three ways of
serving are compared: the first model all the time; retrained at each finding, where the gate decides (`lakehouse monitor
--retrain`); retrained every month, the newest model always in service. Then December alone by the task's own splits.
"""

from __future__ import annotations

import argparse
import calendar
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from deploy.env import PROJECT
from lakehouse.ml import training
from lakehouse.ml.dataset import LabelledRows, open_features, predict_probabilities
from lakehouse.ml.metrics import evaluate
from lakehouse.ml.mlflow_client import CHAMPION, LoadedModel, load_version, tracking_client
from lakehouse.ml.monitoring import MonitoringReport, later_splits, monitor_champion
from lakehouse.ml.registry import Registry
from lakehouse.ml.retraining import with_splits
from lakehouse.ml.scoring import load_by_alias
from lakehouse.ml.task import Span, Splits
from lakehouse.ml.training_record import TrainResult
from lakehouse.runs.scheduler import get_revision
from lakehouse.settings import load as load_settings
from models import trees

LEARNER = "trees"
MODEL: Any = trees  # as a learner; mypy takes a module for less than a `Model`
TASK = trees.TASK
FIRST_SPLITS = Splits(("2013-01-01", "2013-05-31"), ("2013-06-01", "2013-06-30"), ("2013-07-01", "2013-12-31"))
MONTHS = range(7, 13)


def month_of(number: int) -> Span:
    return f"2013-{number:02}-01", f"2013-{number:02}-{calendar.monthrange(2013, number)[1]}"


@dataclass(frozen=True)
class Service:
    """A registry and a table of predictions of its own, beside the feature table."""

    folder: Path

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @staticmethod
    def make(folder: Path, feature_table: Path) -> Service:
        service = Service(folder)
        shutil.rmtree(folder, ignore_errors=True)
        there = service.lake.joinpath(*TASK.feature_table.split("."))
        there.parent.mkdir(parents=True)
        there.symlink_to(feature_table, target_is_directory=True)
        return service

    def train(self, splits: Splits) -> TrainResult:
        registry = Registry(self.tracking_uri, (self.folder / "artifacts").as_uri(), TASK.name)
        models = {LEARNER: with_splits(MODEL, splits)}
        kept = self.folder / "trainings"
        return training.train(
            LEARNER, models, lake=self.lake, registry=registry, revision=get_revision(), pending_folder=kept
        )

    def champion(self) -> LoadedModel:
        return load_by_alias(TASK, {LEARNER: MODEL}, tracking_uri=self.tracking_uri, alias=CHAMPION)

    def version(self, number: int) -> LoadedModel:
        with tracking_client(self.tracking_uri) as client:
            return load_version(client, client.get_model_version(TASK.name, str(number)), {LEARNER: MODEL})

    def results(self, model: LoadedModel, span: Span) -> dict[str, float]:
        features = open_features(TASK, self.lake, model.input_columns())
        rows = LabelledRows(features, span, model.input_columns())
        return evaluate(rows.label, predict_probabilities(model.model, model.fitted, rows))

    def scores(self, span: Span) -> pa.Table:
        """What the champion says of these days, as the table of predictions has it."""
        champion = self.champion()
        features = open_features(TASK, self.lake, champion.input_columns())
        rows = features.read(span, [TASK.time_column, *champion.input_columns()])
        said = {"model_name": pa.repeat(TASK.name, rows.num_rows)}
        said["model_version"] = pa.repeat(pa.scalar(champion.version, pa.int32()), rows.num_rows)
        said["probability"] = pa.array(champion.predict(features.frame(rows)))
        return pa.table({name: rows[name] for name in (*TASK.key, TASK.time_column)} | said)

    def watch(self, span: Span) -> MonitoringReport:
        """Score the span with the champion, and watch it."""
        write_deltalake(self.lake.joinpath(*TASK.predictions_table.split(".")), self.scores(span), mode="append")
        days = [date.fromisoformat(day) for day in span]
        models = {LEARNER: MODEL}
        return monitor_champion(
            TASK, models, lake=self.lake, tracking_uri=self.tracking_uri, since=days[0], until=days[1]
        )


def half_a_year(watched: Service, newest: Service, say: Callable[[str], None]) -> None:
    """Print a row for each month, and what was found in it."""
    for service in (watched, newest):
        first = service.train(FIRST_SPLITS)
    last, told = first.model_version, []
    say(f"first model: {first.metrics} on June\n")
    say("| month | fixed: AUC | Brier | retrained: AUC | Brier | version | newest: AUC | Brier | findings | then |")
    say("|---|---|---|---|---|---|---|---|---|---|")
    for number in MONTHS:
        span, champion = month_of(number), watched.champion()
        all_results = (
            watched.results(watched.version(first.model_version), span),
            watched.results(champion, span),
            newest.results(newest.version(last), span),
        )
        seen = watched.watch(span)
        then = "-"
        if number != MONTHS[-1]:
            splits = later_splits(seen)
            assert splits, "another month is labelled"
            last = newest.train(splits).model_version
            if seen.findings:
                made = watched.train(splits)
                then = f"version {made.model_version} is {made.alias}"
        cells = [f"{one[name]:.4f}" for one in all_results for name in ("roc_auc", "brier")]
        cells.insert(4, str(champion.version))
        what = ", ".join(one.limit for one in seen.findings) or "none"
        say(f"| {calendar.month_name[number]} | {' | '.join(cells)} | {what} | {then} |")
        told += [f"{calendar.month_name[number]}, version {champion.version}: {one.message}" for one in seen.findings]
    say("\n" + "\n".join(told))


def december(service: Service, say: Callable[[str], None]) -> None:
    """What is found in December of the model that the task's own splits make."""
    service.train(TASK.splits)
    seen = service.watch(TASK.splits.test)
    say(f"\nThe task's own splits, December: {seen.current_metrics}, chosen with {seen.validation_metrics}")
    say("\n".join(one.message for one in seen.findings) or "nothing is found")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scratch", type=Path, default=PROJECT / "data" / "watching", help="where registries go")
    scratch = parser.parse_args().scratch.resolve()
    feature_table = Path(str(load_settings().lake.joinpath(*TASK.feature_table.split("."))))
    services = [Service.make(scratch / name, feature_table) for name in ("watched", "newest", "declared")]

    def say(text: str) -> None:
        print(text, flush=True)

    half_a_year(services[0], services[1], say)
    december(services[2], say)


if __name__ == "__main__":
    main()
