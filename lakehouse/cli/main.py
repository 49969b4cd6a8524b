"""The command line."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from lakehouse import api
from lakehouse import settings as settings_module
from lakehouse.cli.render import lake as show_lake
from lakehouse.cli.render import models as show_models
from lakehouse.cli.render import plans as show_plans
from lakehouse.cli.render import quarantine as show_rejects
from lakehouse.cli.render import rollback as show_rollback
from lakehouse.cli.render import runs as show_runs
from lakehouse.errors import LakehouseError, SettingsError, UndoError
from lakehouse.project import VARIABLE, find_root, use
from lakehouse.runs import context, logs
from lakehouse.runs.scheduler import new_run
from lakehouse.settings import Settings
from lakehouse.storage.location import relative

cli = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help="An open lakehouse: land, plan, run, query, train, score, monitor.")  # fmt: skip
# Where nobody watches (a pipe, a scheduler's log) lines stay whole enough to be searched.
PIPE_WIDTH = 160
INTERRUPTED = 128 + signal.SIGINT
console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH)

Select = Annotated[
    list[str] | None,
    typer.Option("--select", "-s", help="A table, +t (and its inputs), t+ (and what reads it), or a layer."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Since = Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")]
Until = Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, included.")]


def main() -> None:
    """Run a command; a mistake of the user's is told in words, without a stack trace."""
    try:
        cli(standalone_mode=True)
    except LakehouseError as error:
        tell(error)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer says nothing of it
            errors.print("Interrupted. What was committed stays; run it again to go on.", highlight=False)
        raise


def tell(error: LakehouseError) -> None:
    """Say what went wrong, and where more is to be read."""
    errors.print(f"[bold red]{type(error).__name__}[/]: ", end="")
    for line in (str(error), *getattr(error, "__notes__", ())):
        errors.print(line, markup=False, highlight=False, soft_wrap=True)


@cli.callback()
def choose_project(
    project: Annotated[
        Path | None,
        typer.Option(
            "--project", help="The project's folder; by default the nearest one above that has conf/base.yml."
        ),
    ] = None,
) -> None:
    """Choose the project."""
    if project is not None:
        os.environ[VARIABLE] = str(project)
    with suppress(SettingsError):  # a command that needs a project says so itself; --help needs none
        use(find_root())


@cli.command()
def demo() -> None:
    """The whole example: land, run, train, land December, run again, score."""
    settings = _training_settings()
    _example(settings).demo(settings, console)


@cli.command()
def land(
    source: Annotated[str | None, typer.Argument(help="A source, such as bronze.orders.")] = None,
    files: Annotated[list[Path] | None, typer.Argument(help="Files to deliver to it.")] = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Deliver files to a source's landing folder, each whole; without a source, the example's data."""
    settings = settings_module.load()
    if source is None:
        _example(settings).land(settings, console, since and since.date(), until and until.date())
        return
    from lakehouse.definitions.sources import Source
    from lakehouse.landing import zone

    declared = context.open_lake(settings).graph.declared.get(source)
    if not isinstance(declared, Source):
        known = [n for n, d in context.open_lake(settings).graph.declared.items() if isinstance(d, Source)]
        raise SettingsError(f"{source!r} is not a source; known are {', '.join(known)}.")
    if not files:
        raise SettingsError(f"Name the files to deliver to {source}: lakehouse land {source} FILE...")
    with show_runs.sending(console, files) as sent:
        delivered = zone.deliver(settings.landing, declared, files, sent)
    for path in delivered:
        console.print(relative(path, settings.root), markup=False, highlight=False)


@cli.command()
def plan(select: Select = None, full_refresh: bool = False, since: Since = None,
         until: Until = None, as_json: AsJson = False) -> None:  # fmt: skip
    """What the next run would do to each table, and why. Exits with 1 on a breaking schema change."""
    from lakehouse.plan import planner

    settings = settings_module.load()
    lake = context.open_lake(settings)
    names = lake.graph.select(select or ())
    request = api.make_request(lake, names, full_refresh, since and since.date(), until and until.date())
    steps = planner.plan(lake, names, request)
    show_plans.plan(console, lake, steps, as_json)
    if any(step.is_breaking for step in steps):
        raise typer.Exit(1)


@cli.command()
def run(select: Select = None, full_refresh: bool = False, since: Since = None,
        until: Until = None) -> None:  # fmt: skip
    """Bring tables up to date. Exits with 1 if any table failed."""
    settings = settings_module.load()
    lake = context.open_lake(settings)
    names = lake.graph.select(select or ())
    request = api.make_request(lake, names, full_refresh, since and since.date(), until and until.date())
    run = new_run()
    with logs.logged(settings, run) as log, show_runs.progress(console, names) as watcher:
        report = api.run_pipeline(settings, select or (), request, watcher, run, log)
    show_runs.report(console, report, log)
    if report.failed:
        raise typer.Exit(1)


@cli.command()
def status(as_json: AsJson = False) -> None:
    """Each table's state: last run, rows in and out, quarantine, what waits, rejected files."""
    settings = settings_module.load()
    show_lake.status(console, context.open_lake(settings), as_json)


@cli.command("lineage")
def draw_lineage(table: str) -> None:
    """What a table was made from, by version, down to the landed files, and what reads it."""
    from lakehouse.runs import lineage

    console.print(lineage.tree(context.open_lake(settings_module.load()), table), highlight=False)


@cli.command("reconcile")
def reconcile_lake(as_json: AsJson = False) -> None:
    """Count again, from what lies in the lake: landed files, bronze, tables, quarantine. Exits with 1 on a difference."""
    from lakehouse.quality.reconcile import reconcile

    accounts = reconcile(context.open_lake(settings_module.load()))
    show_rejects.accounts(console, accounts, as_json)
    if any(one.differences for one in accounts):
        raise typer.Exit(1)


@cli.command()
def tables(as_json: AsJson = False) -> None:
    """The tables with rows, size, version."""
    settings = settings_module.load()
    show_lake.tables(console, context.open_lake(settings), as_json)


@cli.command()
def history(table: str, limit: int = 20, as_json: AsJson = False) -> None:
    """A table's versions: when, which run, what it consumed and wrote."""
    settings = settings_module.load()
    show_lake.history(console, context.open_lake(settings), table, limit, as_json)


@cli.command()
def sql(text: Annotated[str, typer.Argument(metavar="QUERY")], as_json: AsJson = False) -> None:
    """Query the tables by name (DuckDB): lakehouse sql 'select * from gold.airport_daily limit 5'."""
    from lakehouse.deltalog.sql import query

    settings = settings_module.load()
    show_lake.rows(console, query(settings.lake, text), as_json)


@cli.command()
def undo(
    run: Annotated[str, typer.Argument(help="A run's id, as `lakehouse history TABLE` shows it.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go back, and what the next run does.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take back what a run committed: each table as it was before, landed files to be ingested again. Says it first, and asks."""
    from lakehouse.plan.rollback import plan_undo

    settings = settings_module.load()
    planned = plan_undo(context.open_lake(settings), run)
    show_rollback.plan(console, planned)
    if dry_run or not planned.tables:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UndoError("Nobody can be asked here, so nothing was touched: say --yes.")
        typer.confirm("Take it back?", abort=True)
    own = new_run()
    with logs.logged(settings, own) as log, console.status("taking back"):
        api.undo(settings, planned, own, log)
    show_rollback.done(console, planned, own.id)


quarantine = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What was set aside: list, show, replay.")
cli.add_typer(quarantine, name="quarantine")


@quarantine.command("list")
def list_quarantine(as_json: AsJson = False) -> None:
    """What waits in each table's quarantine, and what became of the rest."""
    from lakehouse.quality import quarantine

    settings = settings_module.load()
    show_rejects.summaries(console, quarantine.summaries(context.open_lake(settings)), as_json)


@quarantine.command("show")
def show_quarantine(table: str, limit: int = 20, as_json: AsJson = False) -> None:
    """The rejects of a table that wait: where they came from, what they broke, as they were landed."""
    from lakehouse.quality import quarantine

    lake = context.open_lake(settings_module.load())
    rows = quarantine.waiting(lake, table)
    show_rejects.rows(console, rows, quarantine.columns(lake, table), limit, as_json)


@quarantine.command("replay")
def replay_quarantine(
    table: str, dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of them.")] = False
) -> None:
    """Put a table's rejects through today's code and rules; on record what became of each."""
    settings = settings_module.load()
    run = new_run()
    with logs.logged(settings, run) as log, console.status("replaying"):
        result = api.replay(settings, table, run, log, dry_run)
    show_rejects.replayed(console, result, dry_run)


@cli.command()
def vacuum(
    table: str,
    keep_days: Annotated[int | None, typer.Option(min=7, help="By default as long as the table says, 30 days.")] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="A model's version that need not be reproducible, such as late_arrival:3.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
) -> None:
    """Remove a table's files that only older versions need; refuses where a registered model needs one of these."""
    settings = settings_module.load()
    run = new_run()
    with logs.logged(settings, run), console.status("looking for what can go"):
        result = api.vacuum(settings, table, run, keep_days=keep_days, forget=forget or (), dry_run=dry_run)
    show_models.vacuumed(console, result, dry_run)


ModelArgument = Annotated[str | None, typer.Argument(help="A model's name.")]


@cli.command()
def train(
    model: ModelArgument = None,
    tuned: Annotated[bool, typer.Option("--tuned", help="With the best parameters that `tune` found.")] = False,
) -> None:
    """Train a model on its feature table, log it to MLflow, and crown it where it is better."""
    from lakehouse.ml import pipeline

    settings = _training_settings()
    with logs.logged(settings, new_run()) as log, console.status("training") as said:
        result = pipeline.train(settings, model, said.update, log, tuned)
    show_models.trained(console, result)


@cli.command()
def tune(
    model: ModelArgument = None,
    trials: Annotated[int, typer.Option(min=1, help="How many there are to be, with those of earlier times.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="How many are under way at once.")] = 1,
    on: Annotated[Literal["threads", "dask"], typer.Option(help="What they run on.")] = "threads",
) -> None:
    """Look for a model's best parameters, trial after trial; run again, it goes on."""
    from lakehouse.ml import pipeline

    settings = _training_settings()
    with logs.logged(settings, new_run()) as log, console.status("tuning") as said:
        result = pipeline.tune(settings, model, trials, jobs, on, said.update, log)
    show_models.tuned(console, result)


@cli.command()
def reproduce(run: Annotated[str, typer.Argument(help="The id of a training's run in MLflow.")]) -> None:
    """Make a registered model again, from its table as it was, and say what differs. Exits with 1 where anything does."""
    from lakehouse.ml import pipeline

    settings = _training_settings()
    with logs.logged(settings, new_run()) as log, console.status("reproducing") as said:
        result = pipeline.reproduce(settings, run, said.update, log)
    show_models.reproduced(console, result)
    if result.differs:
        raise typer.Exit(1)


@cli.command()
def score(task: Annotated[str | None, typer.Argument(help="What is predicted, by name.")] = None,
          since: Since = None, until: Until = None,
          alias: Annotated[str, typer.Option(help="Which model scores: the champion, or the challenger.")] = "champion") -> None:  # fmt: skip
    """Score a range of days, into the table of predictions; the model's report period without dates."""
    from lakehouse.ml import pipeline

    settings = settings_module.load()
    run = new_run()
    with logs.logged(settings, run) as log, console.status("scoring"):
        result = pipeline.score(settings, task, since and since.date(), until and until.date(), run, log, alias)
    show_models.scored(console, result)


@cli.command()
def monitor(task: Annotated[str | None, typer.Argument(help="What is predicted, by name.")] = None,
            since: Since = None, until: Until = None,
            retrain: Annotated[bool, typer.Option("--retrain", help="Train a challenger where something is found.")] = False,
            ) -> None:  # fmt: skip
    """Watch the champion: results, drift, missing features; the last 28 scored days without dates. Exits with 1 on a finding."""
    from lakehouse.cli.render import monitoring as show_monitoring
    from lakehouse.ml import pipeline

    settings = _training_settings() if retrain else settings_module.load()
    run = new_run()
    with logs.logged(settings, run) as log, console.status("watching"):
        result = pipeline.monitor(settings, task, since and since.date(), until and until.date(), run, log)
    show_monitoring.monitored(console, result)
    if not result.watched.findings:
        return
    try:
        if retrain:
            with logs.logged(settings, run) as log, console.status("training") as said:
                retrained = pipeline.retrain(settings, result.watched, said.update, log)
            show_monitoring.retrained(console, retrained)
        else:
            show_monitoring.advised(console, result.watched)
    except LakehouseError as error:  # which takes nothing from what was found
        tell(error)
    raise typer.Exit(1)


@cli.command()
def serve(
    task: Annotated[str | None, typer.Argument(help="What is predicted, by name.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    canary: Annotated[float, typer.Option(min=0, max=1, help="The challenger's share of the requests.")] = 0,
    look_seconds: Annotated[float, typer.Option(min=0.1, help="Time between two looks at the registry.")] = 10,
) -> None:
    """Answer requests for predictions over HTTP with the champion. SERVING_API_KEY is the key that callers must show."""
    settings = settings_module.load()
    with logs.logged(settings, new_run()) as log:
        # By name: the platform does not depend on what is built on it.
        server: Any = importlib.import_module("serving.api.server")
        server.serve(
            settings, task, host=host, port=port, canary=canary, look_seconds=look_seconds, tell=_telling_with(log)
        )


@cli.command("app")
def show_page(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen, at 127.0.0.1.")] = 8501,
) -> None:
    """Serve the page about the example's flights. It asks the API at SERVING_API_URL (by default where `serve` listens)."""
    settings = settings_module.load()
    with logs.logged(settings, new_run()) as log:
        server: Any = importlib.import_module("serving.app.server")
        server.serve(port, log, _telling_with(log))


def _training_settings() -> Settings:
    """The settings, for what trains: before anything is imported that would train."""
    from lakehouse.gpu import training

    settings = settings_module.load()
    training.accelerate(settings)
    return settings


def _telling_with(log: Path) -> Callable[[str], None]:
    """Says something of a server, and where its log is."""
    return lambda said: console.print(f"{said} The log is {log}.", markup=False, highlight=False, soft_wrap=True)


@cli.command("gpu-report")
def report_gpu(select: Select = None, as_json: AsJson = False) -> None:
    """What of each table's plan and write would run on a GPU, what would not, and why. Needs none; nothing is computed or written."""
    from lakehouse.cli.render import gpu as show_gpu

    settings = settings_module.load()
    with logs.logged(settings, new_run()) as log, console.status("asking the plugin"):
        reports = api.gpu_report(settings, select or (), log)
    show_gpu.report(console, reports, as_json)


@cli.command("spark-conf")
def print_properties() -> None:
    """Print the Spark properties of the profile, for spark-submit --properties-file: with a GPU's where LAKEHOUSE_GPU asks for one."""
    from lakehouse.engine.spark.session import composed

    for name, value in composed(settings_module.load()).items():
        console.print(f"{name} {value}", markup=False, highlight=False, soft_wrap=True)


def _example(settings: Settings) -> Any:
    if settings.example is None:
        raise SettingsError("No example is set: `example` in conf/base.yml names its module.")
    return importlib.import_module(settings.example)


if __name__ == "__main__":
    main()
