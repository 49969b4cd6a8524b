"""Renderers of `monitor`."""

from __future__ import annotations

from typing import Final

from rich.console import Console

from lakehouse.cli.render.models import print_training
from lakehouse.cli.render.printing import escape_text, make_grid
from lakehouse.ml.monitoring import MonitoringReport
from lakehouse.ml.pipeline import MonitorResult
from lakehouse.ml.training_record import TrainResult

RESULTS: Final = {
    "ROC AUC": "roc_auc",
    "average precision": "average_precision",
    "Brier": "brier",
    "Brier skill": "brier_skill",
    "calibration error": "calibration_error",
    "label rate": "label_rate",
    "mean probability": "mean_probability",
}


def print_monitoring(console: Console, result: MonitorResult) -> None:
    """Print the champion's results beside those on its validation split, then the findings."""
    report = result.report
    task, now = report.features.task, report.current_metrics
    console.print(
        f"{task.name} version {report.champion.version}, {report.span[0]} to {report.span[1]}: "
        f"{now['scored']:,} rows scored, {now['labelled']:,} with a label.",
        highlight=False,
    )
    grid = make_grid("", *[f">{title}" for title in RESULTS])
    for name, values in {"validation split": report.validation_metrics, "these days": now}.items():
        grid.add_row(name, *[f"{values[metric]:.4f}" if metric in values else "-" for metric in RESULTS.values()])
    console.print(grid)
    for note in report.notes:
        console.print(f"[yellow]note[/] {escape_text(note)}", highlight=False)
    for finding in report.findings:
        console.print(f"[bold red]finding[/] {escape_text(finding.message)}", highlight=False)
    console.print(
        f"{result.quality_written:,} rows written to {task.quality_table}, "
        f"{result.drift_written:,} to {task.drift_table}.",
        highlight=False,
    )
    if not report.findings:
        console.print("Nothing is beyond its limit.", highlight=False)


def print_advice(console: Console, report: MonitoringReport) -> None:
    """Print the tables to read after a finding, and the command that retrains."""
    task = report.features.task
    advice = f"See {task.drift_table} and {task.quality_table} day by day."
    if any(finding.limit == "missing" for finding in report.findings):
        advice += f" Fix missing features where they are computed: `lakehouse lineage {task.feature_table}`."
    advice += f" `lakehouse monitor {task.name} --retrain` trains a challenger on the days up to now."
    console.print(advice, highlight=False, soft_wrap=True)


def print_retraining(console: Console, result: TrainResult | str) -> None:
    """Print the trained challenger, or the reason for not training."""
    if isinstance(result, str):
        console.print(f"Not retrained: {escape_text(result)}", highlight=False, soft_wrap=True)
    else:
        print_training(console, result)
