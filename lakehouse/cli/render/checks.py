"""Renderer of `check`: the problems of the project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from lakehouse.cli.render.printing import escape_text, pluralize, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from lakehouse.quality.problems import Problem


def print_check(console: Console, problems: Sequence[Problem], as_json: bool) -> None:
    """Print the problems, and how many they are."""
    if as_json:
        print_json(console, [asdict(problem) for problem in problems])
        return
    for problem in problems:
        label = "[bold red]error[/]" if problem.is_error else "[yellow]warning[/]"
        console.print(f"{label} {escape_text(problem.text)}", highlight=False, soft_wrap=True)
    errors = sum(problem.is_error for problem in problems)
    counts = f"{pluralize(errors, 'error')}, {pluralize(len(problems) - errors, 'warning')}."
    console.print(counts if problems else "No problems.", highlight=False)
