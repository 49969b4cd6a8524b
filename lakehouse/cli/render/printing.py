"""What all that is printed shares: JSON, grids, sizes and numbers in words."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

UNITS = ("B", "kB", "MB", "GB", "TB")


def emit(console: Console, value: Any) -> None:
    """Print JSON, unwrapped."""
    console.print(json.dumps(value, default=_plain, indent=1), soft_wrap=True, markup=False, highlight=False)


def _plain(value: Any) -> Any:
    """A value that JSON does not know: decimals (such as DuckDB's sums of integers) as numbers, times as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def grid(*columns: str, title: str = "") -> Grid:
    """An empty grid; columns that begin with > are set to the right."""
    made = Grid(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        right = column.startswith(">")
        made.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right or not number
        )
    return made


def size(count: float | None) -> str:
    """Bytes in words."""
    if count is None:
        return "unknown"
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


def number(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def literally(text: str) -> str:
    """Text from outside: no markup in it, and nothing that a terminal cannot be sent."""
    return escape(text.encode("utf-8", "replace").decode())
