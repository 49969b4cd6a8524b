"""Wide tables in tests, written as text in several blocks of columns."""

from __future__ import annotations


def side_by_side(*blocks: str) -> str:
    """Join the columns of several text tables, row by row.

    Raises:
        ValueError: The blocks have different numbers of rows.
    """
    lines = [block.strip().splitlines() for block in blocks]
    return "\n".join(" | ".join(cells.strip() for cells in parts) for parts in zip(*lines, strict=True))
