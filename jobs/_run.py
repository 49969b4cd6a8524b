"""What the jobs do: parse arguments, start the session, run the selected tables or a command, stop."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from rich.console import Console

from lakehouse import api, settings
from lakehouse.cli import main as cli
from lakehouse.cli.render import runs as show_runs
from lakehouse.errors import LakehouseError
from lakehouse.project import find_root, use
from lakehouse.runs import context, logs
from lakehouse.runs.scheduler import new_run

# spark-submit puts the script's folder first, where jobs/bronze.py would be taken for the package bronze.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
use(find_root(Path(__file__).parent))


def run_command(name: str) -> None:
    """A command of the command line, with the job's arguments."""
    sys.argv[1:1] = [name]
    cli.main()


def run_job(description: str, *layers: str) -> None:
    """Run the given layers, or the selected tables of them; exit with 1 if a table failed, 2 on a user's mistake."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--select", action="append", default=[], help="a table, +t, t+ or a layer instead of the whole job"
    )
    parser.add_argument("--full-refresh", action="store_true", help="make the selected tables anew")
    parser.add_argument("--from", dest="since", type=date.fromisoformat, help="recompute partitions from this day")
    parser.add_argument("--to", dest="until", type=date.fromisoformat, help="to this day, included")
    arguments = parser.parse_args()
    console = Console(width=160)
    try:
        configured = settings.load()
        lake = context.open_lake(configured)
        selectors = arguments.select or list(layers)
        names = lake.graph.select(selectors)
        request = api.make_request(lake, names, arguments.full_refresh, arguments.since, arguments.until)
        run = new_run()
        with logs.logged(configured, run) as log:
            report = api.run_pipeline(configured, selectors, request, run=run, log=log)
    except LakehouseError as error:
        cli.tell(error)
        sys.exit(2)
    show_runs.report(console, report, log)
    sys.exit(1 if report.failed else 0)
