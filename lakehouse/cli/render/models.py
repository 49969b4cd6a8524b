"""Renderers of training, scoring, tuning, reproduction and vacuum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table as Grid

from lakehouse.cli.render.printing import escape_text, format_size, make_grid
from lakehouse.ml.metrics import METRICS

if TYPE_CHECKING:
    from lakehouse.ml.pipeline import ScoreResult
    from lakehouse.ml.reproduction import ReproductionResult
    from lakehouse.ml.training_record import TrainResult
    from lakehouse.ml.tuning.search import TuneResult
    from lakehouse.runs.vacuum import VacuumResult

MOST_TRIALS: Final = 10


def make_metrics_grid(metrics_by_model: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return a grid of metrics with one row per model."""
    grid = make_grid("", ">ROC AUC", ">average precision", ">Brier (lower is better)")
    for name, metrics in metrics_by_model.items():
        grid.add_row(name, *[f"{metrics[metric]:.4f}" for metric in METRICS])
    return grid


def print_training(console: Console, result: TrainResult) -> None:
    """Print a new model's metrics, its alias and the reason for it."""
    console.print(make_metrics_grid({"model": result.metrics, "schedule only": result.baseline}))
    version = f"{result.model_name} version {result.model_version}"
    console.print(f"{version} is {result.alias}: {result.reason}", highlight=False)


def print_scoring(console: Console, result: ScoreResult) -> None:
    """Print the number of scored rows, and the metrics of labelled rows."""
    console.print(
        f"{result.rows:,} rows from {result.since} to {result.until} scored by {result.model} version {result.version} "
        f"({result.alias}): {result.written:,} written to {result.table}, {result.rows - result.written:,} unchanged; "
        f"quality by day: {result.quality_written:,} rows to {result.quality_table}.",
        highlight=False,
        soft_wrap=True,
    )
    if result.evaluation:
        console.print(
            make_metrics_grid({"model": result.evaluation.metrics, "schedule only": result.evaluation.baseline})
        )


def print_search(console: Console, result: TuneResult) -> None:
    """Print the best trials, and the command that trains with the best."""
    title = "judged on the validation split"
    grid = make_grid(">trial", ">Brier", ">ROC AUC", ">seconds", "parameters", title=title)
    complete = [trial for trial in result.trials if not trial.error]
    for trial in complete[:MOST_TRIALS]:
        metrics = [f"{trial.metrics[f'validation_{name}']:.5f}" for name in ("brier", "roc_auc")]
        grid.add_row(str(trial.number), *metrics, f"{trial.seconds:.1f}", escape_text(_format_params(trial.params)))
    console.print(grid)
    failed = [trial for trial in result.trials if trial.error]
    if failed:
        error = escape_text(failed[-1].error)
        console.print(f"[yellow]failed[/] {len(failed)} trials; the last one: {error}", highlight=False)
    console.print(
        f"{len(result.trials)} trials of {result.study}. The best is number {result.best.number}: `lakehouse train "
        f"{result.learner} --tuned` takes its parameters.",
        highlight=False,
    )


def _format_params(params: Mapping[str, Any]) -> str:
    numbers = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in params.items()}
    return ", ".join(f"{name} {value}" for name, value in numbers.items())


def print_reproduction(console: Console, result: ReproductionResult) -> None:
    """Print the recipe of a model that was trained again, its metrics, and the differences."""
    recipe = result.recipe.recorded
    version = f"version {result.model_version}" if result.model_version else "no version"
    console.print(
        f"{recipe['model']} {version}: {recipe['learner']} on {recipe['feature_table']} version "
        f"{recipe['delta_version']}, seed {recipe['seed']}, {escape_text(json.dumps(recipe['params']))}",
        highlight=False,
    )
    if result.metrics:
        grid = make_grid("", ">recorded", ">again")
        for name, values in result.metrics.items():
            grid.add_row(name, *[f"{value:.6f}" for value in values])
        console.print(grid)
    if result.same_share is not None:
        console.print(
            f"Predictions for {result.rows:,} rows: {result.same_share:.2%} exactly the same, the largest difference "
            f"is {result.largest_difference:.2g}.",
            highlight=False,
        )
    for kind, style, texts in (("note", "yellow", result.notes), ("difference", "bold red", result.differences)):
        for text in texts:
            console.print(f"[{style}]{kind}[/] {escape_text(text)}", highlight=False, soft_wrap=True)
    console.print("The models differ." if result.differences else "The models are the same.", highlight=False)


def print_vacuum(console: Console, result: VacuumResult, dry_run: bool) -> None:
    """Print the number of removed files, and the models that need some of them."""
    outcome = "would be removed" if dry_run else "removed"
    console.print(f"{result.table}: {result.files:,} files ({format_size(result.bytes)}) {outcome}.", highlight=False)
    for pin in result.blocking_pins:
        console.print(
            f"[yellow]refused[/] {pin.model} version {pin.version} needs {pin.files:,} of these files, of version "
            f"{pin.delta_version}: --forget {pin.name} releases them",
            highlight=False,
        )
