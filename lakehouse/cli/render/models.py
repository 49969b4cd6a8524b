"""What the commands print of training, scoring, tuning, of making a model again, and of removing what no model needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Grid

from lakehouse.cli.render.printing import grid, literally, size
from lakehouse.ml.metrics import METRICS

if TYPE_CHECKING:
    from lakehouse.ml.pipeline import Scored
    from lakehouse.ml.reproduce import Reproduced
    from lakehouse.ml.training_record import TrainResult
    from lakehouse.ml.tuning.search import TuneResult
    from lakehouse.runs.vacuum import Vacuumed


def metrics_grid(named: Mapping[str, Mapping[str, float]]) -> Grid:
    """Metrics side by side: one row for each model."""
    shown = grid("", ">ROC AUC", ">average precision", ">Brier (lower is better)")
    for name, metrics in named.items():
        shown.add_row(name, *[f"{metrics[m]:.4f}" for m in METRICS])
    return shown


def trained(console: Console, result: TrainResult) -> None:
    """How a new model does, and whether it became champion."""
    console.print(metrics_grid({"model": result.metrics, "schedule only": result.baseline}))
    console.print(
        f"{result.model_name} version {result.model_version} is {result.alias}: {result.reason}", highlight=False
    )


def scored(console: Console, result: Scored) -> None:
    """What was scored, and how well where the labels are known."""
    console.print(
        f"{result.rows:,} rows from {result.since} to {result.until} scored by {result.model} version {result.version} "
        f"({result.alias}): {result.written:,} written to {result.table}, {result.rows - result.written:,} there already; how they did, "
        f"by day: {result.quality_written:,} rows to {result.quality_table}.",
        highlight=False,
        soft_wrap=True,
    )
    if result.report:
        console.print(metrics_grid({"model": result.report.metrics, "schedule only": result.report.baseline}))


MOST_TRIALS = 10


def tuned(console: Console, result: TuneResult) -> None:
    """The best trials, and how to use the best."""
    shown = grid(">trial", ">Brier", ">ROC AUC", ">seconds", "parameters", title="judged on the choose split")
    good = [one for one in result.trials if not one.error]
    for one in good[:MOST_TRIALS]:
        metrics = [f"{one.metrics[f'choose_{name}']:.5f}" for name in ("brier", "roc_auc")]
        shown.add_row(str(one.number), *metrics, f"{one.seconds:.1f}", literally(_params(one.params)))
    console.print(shown)
    failed = [one for one in result.trials if one.error]
    if failed:
        console.print(
            f"[yellow]failed[/] {len(failed)} trials; the last one: {literally(failed[-1].error)}", highlight=False
        )
    console.print(
        f"{len(result.trials)} trials of {result.study}. The best is number {result.best.number}: `lakehouse train "
        f"{result.learner} --tuned` takes its parameters.",
        highlight=False,
    )


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items()
    )


def reproduced(console: Console, result: Reproduced) -> None:
    """What was made again, what came of it, and what differs."""
    said = result.recipe.said
    version = f"version {result.model_version}" if result.model_version else "no version"
    console.print(
        f"{said['model']} {version}: {said['learner']} on {said['feature_table']} version {said['delta_version']}, seed "
        f"{said['seed']}, {literally(json.dumps(said['params']))}",
        highlight=False,
    )
    if result.metrics:
        shown = grid("", ">recorded", ">again")
        for name, values in result.metrics.items():
            shown.add_row(name, *[f"{value:.6f}" for value in values])
        console.print(shown)
    if result.same is not None:
        console.print(
            f"Predictions for {result.rows:,} rows: {result.same:.2%} exactly the same, the largest difference is "
            f"{result.largest:.2g}.",
            highlight=False,
        )
    for kind, style, texts in (("note", "yellow", result.notes), ("differs", "bold red", result.differs)):
        for text in texts:
            console.print(f"[{style}]{kind}[/] {literally(text)}", highlight=False, soft_wrap=True)
    console.print("It is not the same." if result.differs else "It is the same model.", highlight=False)


def vacuumed(console: Console, result: Vacuumed, dry_run: bool) -> None:
    """What was removed, or would be, and which models stand in the way."""
    done = "would be removed" if dry_run else "removed"
    console.print(f"{result.table}: {result.files:,} files ({size(result.bytes)}) {done}.", highlight=False)
    for one in result.needed:
        console.print(
            f"[yellow]refused[/] {one.model} version {one.version} needs {one.files:,} of them, of version {one.delta_version}: "
            f"--forget {one.name} lets go of it",
            highlight=False,
        )
