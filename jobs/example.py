"""The flights example as commands: deliver its data, and the demo from first file to scored flights."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from flights.delivery import deliver
from lakehouse.catalog import Catalog
from lakehouse.cli.render.models import make_metrics_grid, print_training
from lakehouse.cli.render.printing import make_grid
from lakehouse.cli.render.runs import format_outcome, show_progress
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import Run
from lakehouse.deltalog.sql import query
from lakehouse.engine.base import Engine
from lakehouse.errors import LakehouseError, ModelError
from lakehouse.ml import models as declared_models
from lakehouse.ml import pipeline, score_writer
from lakehouse.ml.monitoring import monitor_champion
from lakehouse.ml.task import Task
from lakehouse.ml.training_record import TrainResult
from lakehouse.plan.steps import RunRequest
from lakehouse.runs import context, lineage, logs
from lakehouse.runs.report import RunReport
from lakehouse.runs.scheduler import run_tables
from lakehouse.serving.api.server import KEY_VARIABLE
from lakehouse.serving.client import Client
from lakehouse.settings import Settings

FIRST_DELIVERY_ENDS = date(2013, 11, 30)
SECOND_DELIVERY = (date(2013, 12, 1), date(2013, 12, 31))
NEXT_COMMANDS = (
    'sql "select flight_date, origin, flights, late_rate from gold.airport_daily order by late_rate desc limit 5"',
    "history silver.flights",
    "plan --full-refresh --select silver.flights+",
)


@dataclass
class Timings:
    """Seconds by step, in the order of the steps."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Measure a step."""
        start = time.monotonic()
        yield
        self.seconds[step] = time.monotonic() - start


def land(settings: Settings, console: Console, since: date | None, until: date | None) -> None:
    """Deliver the example's files: flights from ``since`` to ``until``, the other sources whole."""
    with console.status("delivering") as status:
        counts = deliver(settings.landing, since=since, until=until, progress=_report_files(status.update))
    for source, count in counts.items():
        text = f"  {source:10} {count.written:4} files delivered, {count.unchanged:4} unchanged"
        console.print(text, highlight=False)


def _report_files(update: Callable[[str], None]) -> Callable[[str, int, int], None]:
    return lambda source, done, total: update(f"delivering {source}: {done} of {total} files")


def demo(settings: Settings, console: Console) -> None:
    """Run the whole example on two deliveries: eleven months, then December's daily files.

    Raises:
        LakehouseError: A table or the training failed. The text names the log.
    """
    _Demo(settings, console, context.open_catalog(settings)).run()


@dataclass(frozen=True)
class _Demo:
    """The demo on one lake."""

    settings: Settings
    console: Console
    catalog: Catalog
    timings: Timings = field(default_factory=Timings)

    def run(self) -> None:
        """Run every step, then print the summary."""
        first_run = context.create_run(self.settings.project, self.settings.logs)
        try:
            with logs.log_run(self.settings, first_run) as log_file:
                self._print_title("1. Eleven months of flights land")
                with self.timings.of("deliver January to November"):
                    land(self.settings, self.console, None, FIRST_DELIVERY_ENDS)
                with context.open_locked_engine(self.settings, first_run, log_file) as engine:
                    self._print_title("2. Bronze, silver, gold")
                    self._run_tables("first run", engine, first_run)
                    self._print_title("3. Train on January to October, choose on November")
                    model = self._train()
                    self._print_title("4. December lands, day by day; only changed days are computed")
                    with self.timings.of("deliver December"):
                        land(self.settings, self.console, *SECOND_DELIVERY)
                    following = context.create_run(self.settings.project, self.settings.logs)
                    second_run = replace(following, lease=first_run.lease)  # one lock for both
                    report = self._run_tables("second run", engine, second_run)
                    self._print_title("5. Score December with the champion, and watch it")
                    task, scores = self._score(engine, second_run)
                self._print_title("6. Ask it over HTTP about the likeliest late flight of the last day")
                with self.timings.of("serve"), self.console.status("starting the API"):
                    answer = ask_api(self.settings, task)
                self.console.print(f"  {answer}", markup=False, highlight=False, soft_wrap=True)
        except LakehouseError:
            self.console.print("The demo stopped. Run it again to continue.", soft_wrap=True)
            raise
        self._print_summary(report, model, scores)

    def _print_title(self, title: str) -> None:
        self.console.rule(f"[bold]{title}", align="left")

    def _run_tables(self, step: str, engine: Engine, run: Run) -> RunReport:
        names = self.catalog.graph.select()
        with self.timings.of(step), show_progress(self.console, names) as watcher:
            traced = lineage.add_lineage(self.settings, self.catalog, run, watcher)
            report = run_tables(engine, self.catalog, names, RunRequest(), run, self.settings.parallel_tables, traced)
        failed = [result for result in report.results if result.status == "failed"]
        if failed:
            raise LakehouseError("; ".join(result.describe_failure() for result in failed))
        return report

    def _train(self) -> TrainResult:
        with self.timings.of("train"), self.console.status("training") as status:
            result = pipeline.train(self.settings, None, status.update)
        print_training(self.console, result)
        return result

    def _score(self, engine: Engine, run: Run) -> tuple[Task, pipeline.ScoreResult]:
        models = declared_models.load_models(self.settings)
        task = declared_models.choose_task(models, None)
        with self.timings.of("score"), self.console.status("scoring"):
            scores = pipeline.score_on(engine, self.settings, task, *SECOND_DELIVERY, run)
        with self.timings.of("watch"), self.console.status("watching"):
            since, until = SECOND_DELIVERY
            uri = self.settings.tracking_uri
            watched = monitor_champion(
                task, models, lake=self.settings.lake, tracking_uri=uri, since=since, until=until
            )
            score_writer.write_monitoring(engine, self.settings, watched, run)
        for finding in watched.findings:
            self.console.print(f"  {finding.message}", markup=False, highlight=False)
        if not watched.findings:
            self.console.print("  nothing is beyond its limit")
        return task, scores

    def _print_summary(self, report: RunReport, model: TrainResult, scores: pipeline.ScoreResult) -> None:
        console = self.console
        self._print_title("Summary")
        console.print(self._make_tables_grid(report, scores))
        console.print(
            f"\n[bold]Will a flight be 15 minutes late or more?[/] {model.model_name} version {scores.version}"
        )
        if scores.evaluation:
            metrics = {
                "November: model": model.metrics,
                "November: schedule only": model.baseline,
                "December: model": scores.evaluation.metrics,
                "December: schedule only": scores.evaluation.baseline,
            }
            console.print(make_metrics_grid(metrics))
        console.print()
        console.print(_make_times_grid(self.timings.seconds))
        console.print(f"\nEverything is in {self.settings.root}. Try next:", highlight=False, soft_wrap=True)
        path = shutil.which("lakehouse")
        program = "lakehouse" if path else os.path.relpath(Path(sys.executable).with_name("lakehouse"))
        for command in NEXT_COMMANDS:
            console.print(f"  {program} {command}", markup=False, highlight=False, soft_wrap=True)

    def _make_tables_grid(self, report: RunReport, scores: pipeline.ScoreResult) -> Grid:
        outcomes = {r.table: format_outcome(r.outcome) for r in report.results if r.status == "written" and r.outcome}
        outcomes[scores.table] = f"{scores.written:,} scores"
        outcomes[scores.quality_table] = f"{scores.quality_written:,} days evaluated"
        grid = make_grid("table", ">rows", ">version", "the second run wrote")
        for name in (*self.catalog.graph.declarations, scores.table, scores.quality_table):
            log = table_log.open_log(self.catalog.get_path(name))
            if log:
                outcome = outcomes.get(name, "nothing: its inputs did not change")
                grid.add_row(name, f"{log.count_rows():,}", str(log.version), outcome)
        return grid


def _make_times_grid(seconds_by_step: Mapping[str, float]) -> Grid:
    grid = make_grid("step", ">seconds")
    for step, seconds in seconds_by_step.items():
        grid.add_row(step, f"{seconds:.1f}")
    grid.add_row("total", f"{sum(seconds_by_step.values()):.1f}")
    return grid


def ask_api(settings: Settings, task: Task) -> str:
    """Start the API, and ask it about the flight with the highest score on the second delivery's last day.

    Returns:
        The request and the answer as text, beside the score in the table.

    Raises:
        ModelError: The API does not start, or does not answer.
    """
    last, names = SECOND_DELIVERY[1], ", ".join(task.key)
    statement = (
        f"SELECT {names}, {task.time_column}, probability FROM {task.predictions_table} "
        f"WHERE {task.time_column} = DATE '{last}' ORDER BY probability DESC, {names} LIMIT 1"
    )
    row = query(settings.lake, statement).to_pylist()[0]
    score = row.pop("probability")
    key = secrets.token_urlsafe()
    command = [sys.executable, "-m", "lakehouse.cli.main", "serve", task.name, "--port", "0"]
    environment = {**os.environ, KEY_VARIABLE: key}
    with subprocess.Popen(command, cwd=settings.project, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            if not (address := re.search(r"http://\S+?:\d+", server.stdout.readline())):
                raise ModelError("The API did not start. Its message is above.")
            keys = [{name: value if isinstance(value, str | int) else value.isoformat() for name, value in row.items()}]
            (answer,) = Client(address[0], key).predict("demo", "keys", keys)
        finally:
            server.terminate()
    return (
        f"POST {address[0]}/predict: {row['carrier']} {row['flight']}, {row['origin']} to {row['dest']} on {last}: "
        f"{answer['probability']:.1%} by {answer['alias']} {answer['model_version']}; scored {score:.1%}"
    )
