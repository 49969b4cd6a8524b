"""Commands on models: train, tune, reproduce, score, monitor."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from lakehouse import api
from lakehouse.cli.options import FirstDay, LastDay, TaskName, as_dates
from lakehouse.cli.render.models import print_reproduction, print_scoring, print_search, print_training
from lakehouse.cli.terminal import console, print_error
from lakehouse.errors import LakehouseError
from lakehouse.runs import context, logs
from lakehouse.settings import Settings

ModelName = Annotated[str | None, typer.Argument(help="A model's name.")]


def train_model(
    model: ModelName = None,
    tuned: Annotated[bool, typer.Option("--tuned", help="Use the best parameters that `tune` found.")] = False,
) -> None:
    """Train a model on its feature table, log it to MLflow, and promote it if it is better."""
    from lakehouse.ml import pipeline

    settings = load_training_settings()
    with (
        logs.log_run(settings, context.create_run(settings.project, settings.logs)) as log,
        console.status("training") as status,
    ):
        result = pipeline.train(settings, model, status.update, log, tuned)
    print_training(console, result)


def tune_model(
    model: ModelName = None,
    trials: Annotated[int, typer.Option(min=1, help="The number of trials, earlier ones included.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="The number of trials at the same time.")] = 1,
    on: Annotated[Literal["threads", "dask"], typer.Option(help="Where trials run.")] = "threads",
) -> None:
    """Search for a model's best parameters. A search that was interrupted continues when run again."""
    from lakehouse.ml import pipeline

    settings = load_training_settings()
    with (
        logs.log_run(settings, context.create_run(settings.project, settings.logs)) as log,
        console.status("tuning") as status,
    ):
        result = pipeline.tune(settings, model, trials, jobs, on, status.update, log)
    print_search(console, result)


def reproduce_model(run: Annotated[str, typer.Argument(help="The id of a training's run in MLflow.")]) -> None:
    """Train a registered model again from its table version, and list the differences. Exits with 1 on a difference."""
    from lakehouse.ml import pipeline

    settings = load_training_settings()
    with (
        logs.log_run(settings, context.create_run(settings.project, settings.logs)) as log,
        console.status("reproducing") as status,
    ):
        result = pipeline.reproduce(settings, run, status.update, log)
    print_reproduction(console, result)
    if result.differences:
        raise typer.Exit(1)


def score_days(
    task: TaskName = None,
    since: FirstDay = None,
    until: LastDay = None,
    alias: Annotated[str, typer.Option(help="The model that scores: champion or challenger.")] = "champion",
) -> None:
    """Score a range of days into the table of predictions. Without dates, score the test split of its task."""
    from lakehouse.ml import pipeline

    settings = api.load_settings()
    run = context.create_run(settings.project, settings.logs)
    with logs.log_run(settings, run) as log, console.status("scoring"):
        result = pipeline.score(settings, task, *as_dates(since, until), run, log, alias)
    print_scoring(console, result)


def monitor_champion(
    task: TaskName = None,
    since: FirstDay = None,
    until: LastDay = None,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train a challenger if there is a finding.")] = False,
) -> None:
    """Check the champion's results, drift and missing features. Without dates, check the last 28 scored days.

    Exits with 1 on a finding.
    """
    from lakehouse.cli.render.monitoring import print_advice, print_monitoring, print_retraining
    from lakehouse.ml import pipeline

    settings = load_training_settings() if retrain else api.load_settings()
    run = context.create_run(settings.project, settings.logs)
    with logs.log_run(settings, run) as log, console.status("monitoring"):
        result = pipeline.monitor(settings, task, *as_dates(since, until), run, log)
    print_monitoring(console, result)
    if not result.report.findings:
        return
    try:
        if retrain:
            with logs.log_run(settings, run) as log, console.status("training") as status:
                challenger = pipeline.retrain(settings, result.report, status.update, log)
            print_retraining(console, challenger)
        else:
            print_advice(console, result.report)
    except LakehouseError as error:  # the findings are printed already, and decide the exit code
        print_error(error)
    raise typer.Exit(1)


def load_training_settings() -> Settings:
    """Load the settings for a command that trains, before it imports a library that trains."""
    from lakehouse.gpu import training

    settings = api.load_settings()
    training.accelerate(settings)
    return settings
