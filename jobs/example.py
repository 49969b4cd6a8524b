"""The flights example as commands: deliver its data, and the demo from first file to scored flights."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from rich.console import Console

from flights.delivery import deliver
from lakehouse.catalog import Lake
from lakehouse.cli.render import models as show_models
from lakehouse.cli.render import printing
from lakehouse.cli.render import runs as show_runs
from lakehouse.deltalog import table_log
from lakehouse.deltalog.sql import query
from lakehouse.errors import LakehouseError, ModelError
from lakehouse.ml import models as declared_models
from lakehouse.ml import pipeline, score_writer
from lakehouse.ml.monitoring import watch
from lakehouse.ml.task import Task
from lakehouse.ml.training_record import TrainResult
from lakehouse.plan.steps import Request
from lakehouse.runs import context, lineage, logs
from lakehouse.runs.scheduler import Report, new_run, run_tables
from lakehouse.settings import Settings
from serving.api.server import KEY
from serving.app.client import Client

FIRST_DELIVERY_ENDS = date(2013, 11, 30)
SECOND_DELIVERY = (date(2013, 12, 1), date(2013, 12, 31))


@dataclass
class Timings:
    """Seconds by step, in the order in which they were taken."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[step] = time.monotonic() - began


def land(settings: Settings, console: Console, since: date | None, until: date | None) -> None:
    """Deliver the example's files from ``since`` to ``until`` (flights; the other sources whole)."""
    with console.status("delivering") as said:
        counts = deliver(settings.landing, since=since, until=until, progress=_telling(said.update))
    for source, one in counts.items():
        console.print(
            f"  {source:10} {one.written:4} files delivered, {one.unchanged:4} there already", highlight=False
        )


def demo(settings: Settings, console: Console) -> None:
    """The whole example, twice delivered: eleven months, then December's daily files.

    Raises:
        LakehouseError: a table or the training failed; the text names the log.
    """
    lake = context.open_lake(settings)
    names = lake.graph.select()
    timings = Timings()
    first_run = new_run()
    second_run = replace(new_run(), hold=first_run.hold)  # one lock for both
    try:
        with logs.logged(settings, first_run) as log_file:
            console.rule("[bold]1. Eleven months of flights land", align="left")
            with timings.of("deliver January to November"):
                land(settings, console, None, FIRST_DELIVERY_ENDS)
            with context.engine_for(settings, first_run, log_file) as engine:
                console.rule("[bold]2. Bronze, silver, gold", align="left")
                with timings.of("first run"), show_runs.progress(console, names) as watcher:
                    traced = lineage.traced(settings, lake, first_run, watcher)
                    first = run_tables(engine, lake, names, Request(), first_run, settings.parallel_tables, traced)
                _raise_failed(first)
                console.rule("[bold]3. Train on January to October, choose on November", align="left")
                with timings.of("train"), console.status("training") as said:
                    trained = pipeline.train(settings, None, said.update)
                show_models.trained(console, trained)
                console.rule("[bold]4. December lands, day by day; only what changed is computed", align="left")
                with timings.of("deliver December"):
                    land(settings, console, *SECOND_DELIVERY)
                with timings.of("second run"), show_runs.progress(console, names) as watcher:
                    traced = lineage.traced(settings, lake, second_run, watcher)
                    second = run_tables(engine, lake, names, Request(), second_run, settings.parallel_tables, traced)
                _raise_failed(second)
                console.rule("[bold]5. Score December with the champion, and watch it", align="left")
                models = declared_models.load_models(settings)
                task = declared_models.choose_task(models, None)
                with timings.of("score"), console.status("scoring"):
                    scored = pipeline.score_on(engine, settings, task, *SECOND_DELIVERY, second_run)
                with timings.of("watch"), console.status("watching"):
                    since, until = SECOND_DELIVERY
                    uri = settings.tracking_uri
                    watched = watch(task, models, lake=settings.lake, tracking_uri=uri, since=since, until=until)
                    score_writer.write_watched(engine, settings, watched, second_run)
                for finding in watched.findings:
                    console.print(f"  {finding.said}", markup=False, highlight=False)
                if not watched.findings:
                    console.print("  nothing is beyond its limit")
            console.rule("[bold]6. Ask it over HTTP about the likeliest late flight of the last day", align="left")
            with timings.of("serve"), console.status("starting the API"):
                answer = ask_api(settings, task)
            console.print(f"  {answer}", markup=False, highlight=False, soft_wrap=True)
    except LakehouseError:
        console.print("The demo stopped. Run it again: it goes on from what is there.", soft_wrap=True)
        raise
    _summary(console, settings, lake, second, trained, scored, timings)


def ask_api(settings: Settings, task: Task) -> str:
    """What the API says, started for this, of the flight of the second delivery's last day that was scored highest.

    Raises:
        ModelError: it does not start, or does not answer.
    """
    last, names = SECOND_DELIVERY[1], ", ".join(task.key)
    asked = f"SELECT {names}, {task.time}, probability FROM {task.predictions} WHERE {task.time} = DATE '{last}'"
    row = query(settings.lake, f"{asked} ORDER BY probability DESC, {names} LIMIT 1").to_pylist()[0]
    scored = row.pop("probability")
    key = secrets.token_urlsafe()
    command = [sys.executable, "-m", "lakehouse.cli.main", "serve", task.name, "--port", "0"]
    environment = {**os.environ, KEY: key}
    with subprocess.Popen(command, cwd=settings.project, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            if not (found := re.search(r"http://\S+?:\d+", server.stdout.readline())):
                raise ModelError("The API did not start; it said why.")
            keys = [{name: value if isinstance(value, str | int) else value.isoformat() for name, value in row.items()}]
            (answer,) = Client(found[0], key).predict("demo", "keys", keys)
        finally:
            server.terminate()
    return (
        f"POST {found[0]}/predict: {row['carrier']} {row['flight']}, {row['origin']} to {row['dest']} on {last}: "
        f"{answer['probability']:.1%} by {answer['alias']} {answer['model_version']}; scored {scored:.1%}"
    )


def _summary(
    console: Console,
    settings: Settings,
    lake: Lake,
    second: Report,
    trained: TrainResult,
    scored: pipeline.Scored,
    timings: Timings,
) -> None:
    console.rule("[bold]Summary", align="left")
    touched = {r.table: r for r in second.results if r.status == "written" and r.outcome}
    shown = printing.grid("table", ">rows", ">version", "the second run wrote")
    scores = {
        scored.table: f"{scored.written:,} scores",
        scored.quality_table: f"{scored.quality_written:,} days judged",
    }
    for name in (*lake.graph.declared, *scores):
        opened = table_log.open_log(lake.path(name))
        if opened:
            said = (
                show_runs.outcome(touched[name].outcome) if name in touched else "nothing: its inputs had not changed"
            )
            said = scores.get(name, said)
            shown.add_row(name, f"{opened.rows():,}", str(opened.version), said)
    console.print(shown)
    console.print(f"\n[bold]Will a flight be 15 minutes late or more?[/] {trained.model_name} version {scored.version}")
    if scored.report:
        named = {"December: model": scored.report.metrics, "December: schedule only": scored.report.baseline}
        console.print(
            show_models.metrics_grid(
                {"November: model": trained.metrics, "November: schedule only": trained.baseline, **named}
            )
        )
    times = printing.grid("step", ">seconds")
    for step, seconds in timings.seconds.items():
        times.add_row(step, f"{seconds:.1f}")
    times.add_row("in all", f"{sum(timings.seconds.values()):.1f}")
    console.print()
    console.print(times)
    console.print(f"\nEverything is in {settings.root}. Try next:", highlight=False, soft_wrap=True)
    program = "lakehouse" if shutil.which("lakehouse") else os.path.relpath(Path(sys.executable).with_name("lakehouse"))
    for command in (
        'sql "select flight_date, origin, flights, late_rate from gold.airport_daily order by late_rate desc limit 5"',
        "history silver.flights",
        "plan --full-refresh --select silver.flights+",
    ):
        console.print(f"  {program} {command}", markup=False, highlight=False, soft_wrap=True)


def _raise_failed(report: Report) -> None:
    failed = [r for r in report.results if r.status == "failed"]
    if failed:
        raise LakehouseError("; ".join(r.failure() for r in failed))


def _telling(update: Callable[[str], None]) -> Callable[[str, int, int], None]:
    return lambda source, done, total: update(f"delivering {source}: {done} of {total} files")
