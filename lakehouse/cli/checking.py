"""The command that checks the project."""

from __future__ import annotations

import typer

from lakehouse import api
from lakehouse.cli.options import AsJson
from lakehouse.cli.render.checks import print_check
from lakehouse.cli.terminal import console


def check_project(as_json: AsJson = False) -> None:
    """List every problem of the project: declarations, rules, suites, models and files in conf. Reads no data.

    Exits with 1 on an error. A warning alone is 0.
    """
    problems = api.check_project(api.load_settings())
    print_check(console, problems, as_json)
    if any(problem.is_error for problem in problems):
        raise typer.Exit(1)
