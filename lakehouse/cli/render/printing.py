"""Helpers of all renderers: JSON, grids, sizes and counts as text."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from lakehouse.errors import escape_controls

UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def print_json(console: Console, value: Any) -> None:
    """Print JSON without wrapping lines."""
    try:
        text = json.dumps(value, default=_as_plain, indent=1, allow_nan=False)
    except ValueError:  # JSON has neither NaN nor infinity.
        text = json.dumps(_name_non_finite(value), default=_as_plain, indent=1)
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _as_plain(value: Any) -> Any:
    """Convert a value that JSON lacks: a time to text, a decimal to a number, or to text if a number loses digits."""
    if not isinstance(value, Decimal):
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(str(float(value))) == value else str(value)


def _name_non_finite(value: Any) -> Any:
    """Replace NaN and infinities by their names, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _name_non_finite(item) for key, item in value.items()}
    return [_name_non_finite(item) for item in value] if isinstance(value, list | tuple) else value


def make_grid(*columns: str, title: str = "") -> Grid:
    """Return an empty grid. Columns that begin with > are aligned to the right."""
    grid = Grid(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        right = column.startswith(">")
        justify: Any = "right" if right else "left"
        grid.add_column(column.removeprefix(">"), justify=justify, overflow="fold", no_wrap=right or index == 0)
    return grid


def format_size(count: float | None) -> str:
    """Return bytes as text with a unit."""
    if count is None:
        return "unknown"
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


def format_count(count: int | None) -> str:
    """Return a count as text with separators."""
    return "unknown" if count is None else f"{count:,}"


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def escape_text(text: str) -> str:
    """Escape text from outside: markup, control characters, and characters that UTF-8 cannot encode."""
    return escape(escape_controls(text))


def shorten(text: str, width: int) -> str:
    """Return the beginning of a text that is longer than the width, with an ellipsis."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
