"""Renderer of a query's result, in grids that fit the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from lakehouse.cli.render.printing import print_json
from lakehouse.deltalog import sql
from lakehouse.errors import escape_controls

if TYPE_CHECKING:
    import pyarrow as pa

# Text is cut to this width only if its column would not fit otherwise.
LEAST_TEXT_WIDTH: Final = 12
# No more characters of a value are looked at.
_LONGEST_VALUE: Final = 2000
_GAP: Final = 2
_UNCUT_TYPES: Final = ("int", "uint", "double", "float", "decimal", "bool", "date", "time")
_NUMERIC_TYPES: Final = ("int", "uint", "double", "float", "decimal")


@dataclass(frozen=True)
class _Column:
    """A column of a result as text.

    Attributes:
        least: The width that the header needs, and the values unless they may be cut.
        most: The width of the header and of all values.
    """

    header: str
    values: Sequence[str]
    is_numeric: bool
    least: int
    most: int


def print_rows(console: Console, result: pa.Table, as_json: bool, limit: int = 100) -> None:
    """Print a query's result. Values are cut to fit the terminal; headers and numbers are not."""
    if as_json:
        print_json(console, sql.list_rows(result))
        return
    rows = sql.list_rows(result.slice(0, limit))
    columns = [_make_column(field, [row[field.name] for row in rows]) for field in result.schema]
    for block in _split_into_blocks(columns, console.width):
        console.print(_make_block_grid(block, console.width))
    if result.num_rows > limit:
        console.print(f"... {result.num_rows - limit:,} more rows; --json prints all of them.", highlight=False)


def _make_column(field: pa.Field[Any], values: Sequence[Any]) -> _Column:
    header, kind = escape_controls(field.name), str(field.type)
    texts = [escape_controls(_format_value(value)) for value in values]
    most = max(map(cell_len, [header, *texts]))
    least = most if kind.startswith(_UNCUT_TYPES) else max(cell_len(header), min(most, LEAST_TEXT_WIDTH))
    return _Column(header, texts, kind.startswith(_NUMERIC_TYPES), least, most)


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return str(value)[:_LONGEST_VALUE]


def _split_into_blocks(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """Split the columns into grids, one below the other, that are no wider than the terminal."""
    blocks: list[list[_Column]] = []
    for column in columns:
        if blocks and _sum_widths([each.least for each in (*blocks[-1], column)]) <= width:
            blocks[-1].append(column)
        else:
            blocks.append([column])
    return blocks


def _sum_widths(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _make_block_grid(block: Sequence[_Column], width: int) -> Grid:
    grid = Grid(header_style="bold", box=None, pad_edge=False)
    widths = _distribute(block, width)
    for column, most in zip(block, widths, strict=True):
        justify: Any = "right" if column.is_numeric else "left"
        grid.add_column(Text(column.header), justify=justify, width=most, overflow="fold")
    for values in zip(*[column.values for column in block], strict=True):
        grid.add_row(*[Text(_cut(value, most)) for value, most in zip(values, widths, strict=True)])
    return grid


def _distribute(block: Sequence[_Column], width: int) -> list[int]:
    """Return a width for each column. Columns that need less than their share leave the rest to the others."""
    widths = [column.least for column in block]
    spare = width - _sum_widths(widths)
    wanting = sorted(range(len(block)), key=lambda index: block[index].most - block[index].least)
    for position, index in enumerate(wanting):
        share = max(spare, 0) // (len(wanting) - position)
        added = min(share, block[index].most - block[index].least)
        widths[index] += added
        spare -= added
    return widths


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"
