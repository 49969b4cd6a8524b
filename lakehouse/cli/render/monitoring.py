"""What `lakehouse monitor` prints."""

from __future__ import annotations

from rich.console import Console

from lakehouse.cli.render import models as show_models
from lakehouse.cli.render import printing
from lakehouse.ml.monitoring import Watched
from lakehouse.ml.pipeline import Monitored
from lakehouse.ml.training_record import TrainResult

RESULTS = {
    "ROC AUC": "roc_auc",
    "average precision": "average_precision",
    "Brier": "brier",
    "Brier skill": "brier_skill",
    "calibration error": "calibration_error",
    "label rate": "label_rate",
    "mean probability": "mean_probability",
}


def monitored(console: Console, result: Monitored) -> None:
    """How the champion does, against how it was chosen, and what was found."""
    watched = result.watched
    now, version = watched.now, watched.champion.version
    console.print(
        f"{watched.features.task.name} version {version}, {watched.span[0]} to {watched.span[1]}: {now['scored']:,} rows scored, "
        f"{now['labelled']:,} with a label.",
        highlight=False,
    )
    shown = printing.grid("", *[f">{words}" for words in RESULTS])
    for name, values in {"choose split": watched.chosen, "these days": now}.items():
        shown.add_row(name, *[f"{values[one]:.4f}" if one in values else "-" for one in RESULTS.values()])
    console.print(shown)
    for note in watched.notes:
        console.print(f"[yellow]note[/] {printing.literally(note)}", highlight=False)
    for finding in watched.findings:
        console.print(f"[bold red]finding[/] {printing.literally(finding.said)}", highlight=False)
    task = watched.features.task
    console.print(
        f"{result.quality_written:,} rows written to {task.quality}, {result.drift_written:,} to {task.drift}.",
        highlight=False,
    )
    if not watched.findings:
        console.print("Nothing is beyond its limit.", highlight=False)


def advised(console: Console, watched: Watched) -> None:
    """Where to look after a finding, and what to do."""
    task = watched.features.task
    look = f"See {task.drift} and {task.quality} day by day."
    if any(finding.what == "missing" for finding in watched.findings):
        look += f" What is missing is mended where it is made: `lakehouse lineage {task.feature_table}`."
    advice = f"{look} `lakehouse monitor {task.name} --retrain` trains a challenger on the days up to now."
    console.print(advice, highlight=False, soft_wrap=True)


def retrained(console: Console, result: TrainResult | str) -> None:
    """The challenger that was trained, or why none was."""
    if isinstance(result, str):
        console.print(f"Not retrained: {printing.literally(result)}", highlight=False, soft_wrap=True)
    else:
        show_models.trained(console, result)
