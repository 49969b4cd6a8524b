"""The terminal: where commands print results and errors."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import Final

from rich.console import Console

from lakehouse.causes import describe_cause
from lakehouse.errors import LakehouseError, escape_controls

# In a pipe or a scheduler's log, lines stay long enough to be searched.
PIPE_WIDTH: Final = 160
# A name or a value such as ":warning:" is text.
console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, emoji=False)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH, emoji=False)


def print_unexpected_error(error: BaseException) -> None:
    """Print the cause of an unexpected error in words. The stack trace goes to a file, for a report of the fault."""
    replacement = LakehouseError(f"{type(error).__name__}: {describe_cause(error)}")
    for note in getattr(error, "__notes__", ()):
        replacement.add_note(note)
    with suppress(OSError):  # the disk may be full
        descriptor, name = tempfile.mkstemp(".log", "lakehouse-")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
        replacement.add_note(f"The stack trace is in {name}.")
    print_error(replacement)


def print_error(error: LakehouseError) -> None:
    """Print an error's class, message and notes without a stack trace."""
    errors.print(f"[bold red]{type(error).__name__}[/]: ", end="")
    for text in (str(error), *getattr(error, "__notes__", ())):
        for line in text.split("\n"):
            errors.print(escape_controls(line), markup=False, highlight=False, soft_wrap=True)
