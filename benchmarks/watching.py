"""Findings of half a year of monitoring, and the gain of retraining.

    python -m benchmarks.watching [--scratch FOLDER]

The first model is trained to May and validated on June; each later month is monitored. The benchmark needs the
feature table of the whole year (`lakehouse land`, `lakehouse run`), but neither Spark nor the lake's registry. It
compares three ways of serving:

- The first model serves all the time.
- A finding starts a retraining, and the gate decides (`lakehouse monitor --retrain`).
- Every month has a retraining, and the newest model serves.

Then December alone is monitored, by the task's own splits.
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
from lakehouse.ml.mlflow_client import CHAMPION, LoadedModel, load_version, open_tracking_client
from lakehouse.ml.monitoring import MonitoringReport, monitor_champion, shift_splits
from lakehouse.ml.registry import Registry
from lakehouse.ml.retraining import with_splits
from lakehouse.ml.scoring import load_by_alias
from lakehouse.ml.task import Span, Splits
from lakehouse.ml.training_record import TrainResult
from lakehouse.runs.context import get_revision
from lakehouse.settings import load as load_settings
from models import trees

LEARNER = "trees"
MODEL: Any = trees  # a learner; mypy does not accept a module as a `Model`
TASK = trees.TASK
FIRST_SPLITS = Splits(("2013-01-01", "2013-05-31"), ("2013-06-01", "2013-06-30"), ("2013-07-01", "2013-12-31"))
MONTHS = range(7, 13)


def month_span(number: int) -> Span:
    return f"2013-{number:02}-01", f"2013-{number:02}-{calendar.monthrange(2013, number)[1]}"


@dataclass(frozen=True)
class Service:
    """A separate registry and table of predictions, beside the feature table."""

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
        link = service.lake.joinpath(*TASK.feature_table.split("."))
        link.parent.mkdir(parents=True)
        link.symlink_to(feature_table, target_is_directory=True)
        return service

    def train(self, splits: Splits) -> TrainResult:
        registry = Registry(self.tracking_uri, (self.folder / "artifacts").as_uri(), TASK.name)
        models = {LEARNER: with_splits(MODEL, splits)}
        pending = self.folder / "trainings"
        return training.train(
            LEARNER, models, lake=self.lake, registry=registry, revision=get_revision(PROJECT), pending_folder=pending
        )

    def champion(self) -> LoadedModel:
        return load_by_alias(TASK, {LEARNER: MODEL}, tracking_uri=self.tracking_uri, alias=CHAMPION)

    def version(self, number: int) -> LoadedModel:
        with open_tracking_client(self.tracking_uri) as client:
            return load_version(client, client.get_model_version(TASK.name, str(number)), {LEARNER: MODEL})

    def results(self, model: LoadedModel, span: Span) -> dict[str, float]:
        features = open_features(TASK, self.lake, model.get_input_columns())
        rows = LabelledRows(features, span, model.get_input_columns())
        return evaluate(rows.label, predict_probabilities(model.model, model.fitted, rows))

    def scores(self, span: Span) -> pa.Table:
        """Return the champion's predictions of these days, with the columns of the table of predictions."""
        champion = self.champion()
        features = open_features(TASK, self.lake, champion.get_input_columns())
        rows = features.read(span, [TASK.time_column, *champion.get_input_columns()])
        predictions = {"model_name": pa.repeat(TASK.name, rows.num_rows)}
        predictions["model_version"] = pa.repeat(pa.scalar(champion.version, pa.int32()), rows.num_rows)
        predictions["probability"] = pa.array(champion.predict(features.read_frame(rows)))
        return pa.table({name: rows[name] for name in (*TASK.key, TASK.time_column)} | predictions)

    def monitor(self, span: Span) -> MonitoringReport:
        """Score the span with the champion, and monitor the result."""
        write_deltalake(self.lake.joinpath(*TASK.predictions_table.split(".")), self.scores(span), mode="append")
        days = [date.fromisoformat(day) for day in span]
        models = {LEARNER: MODEL}
        return monitor_champion(
            TASK, models, lake=self.lake, tracking_uri=self.tracking_uri, since=days[0], until=days[1]
        )


def monitor_half_a_year(retrained: Service, newest: Service, show: Callable[[str], None]) -> None:
    """Print a row for each month with its metrics and findings."""
    for service in (retrained, newest):
        first = service.train(FIRST_SPLITS)
    last, messages = first.model_version, list[str]()
    show(f"first model: {first.metrics} on June\n")
    show("| month | fixed: AUC | Brier | retrained: AUC | Brier | version | newest: AUC | Brier | findings | outcome |")
    show("|---|---|---|---|---|---|---|---|---|---|")
    for number in MONTHS:
        span, champion = month_span(number), retrained.champion()
        all_results = (
            retrained.results(retrained.version(first.model_version), span),
            retrained.results(champion, span),
            newest.results(newest.version(last), span),
        )
        monitoring = retrained.monitor(span)
        outcome = "-"
        if number != MONTHS[-1]:
            splits = shift_splits(monitoring)
            assert splits, "another month is labelled"
            last = newest.train(splits).model_version
            if monitoring.findings:
                candidate = retrained.train(splits)
                outcome = f"version {candidate.model_version} is {candidate.alias}"
        cells = [f"{metrics[name]:.4f}" for metrics in all_results for name in ("roc_auc", "brier")]
        cells.insert(4, str(champion.version))
        limits = ", ".join(finding.limit for finding in monitoring.findings) or "none"
        month = calendar.month_name[number]
        show(f"| {month} | {' | '.join(cells)} | {limits} | {outcome} |")
        messages += [f"{month}, version {champion.version}: {finding.message}" for finding in monitoring.findings]
    show("\n" + "\n".join(messages))


def monitor_december(service: Service, show: Callable[[str], None]) -> None:
    """Print the findings of December for a model that the task's own splits train."""
    service.train(TASK.splits)
    monitoring = service.monitor(TASK.splits.test)
    metrics, validated = monitoring.current_metrics, monitoring.validation_metrics
    show(f"\nThe task's own splits, December: {metrics}; validation: {validated}")
    show("\n".join(finding.message for finding in monitoring.findings) or "no finding")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watching", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scratch", type=Path, default=PROJECT / "data" / "watching", help="folder for registries")
    scratch = parser.parse_args().scratch.resolve()
    feature_table = Path(str(load_settings().lake.joinpath(*TASK.feature_table.split("."))))
    services = [Service.make(scratch / name, feature_table) for name in ("watched", "newest", "declared")]

    def show(text: str) -> None:
        print(text, flush=True)

    monitor_half_a_year(services[0], services[1], show)
    monitor_december(services[2], show)


if __name__ == "__main__":
    main()
