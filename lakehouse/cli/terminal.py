"""The terminal: where commands print results and errors."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console

from lakehouse.errors import LakehouseError, escape_controls

# In a pipe or a scheduler's log, lines stay long enough to be searched.
PIPE_WIDTH: Final = 160
# A name or a value such as ":warning:" is text.
console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, emoji=False)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH, emoji=False)


def print_error(error: LakehouseError) -> None:
    """Print an error's class, message and notes without a stack trace."""
    errors.print(f"[bold red]{type(error).__name__}[/]: ", end="")
    for text in (str(error), *getattr(error, "__notes__", ())):
        for line in text.split("\n"):
            errors.print(escape_controls(line), markup=False, highlight=False, soft_wrap=True)
