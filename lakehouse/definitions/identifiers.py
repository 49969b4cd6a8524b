"""Column names: the allowed pattern, and quoting for SQL."""

from __future__ import annotations

import re

from lakehouse.errors import DeclarationError

COLUMN_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def require_sequences(name: str, **columns: object) -> None:
    """Check that no column list is plain text: ("id") would be read as the columns i and d.

    Raises:
        DeclarationError: A list is text. The message has the correct form.
    """
    for parameter, value in columns.items():
        if isinstance(value, str):
            raise DeclarationError(
                f"{name}: {parameter}={value!r} is text, not columns; write {parameter}=({value!r},)."
            )


def quote_identifier(name: str) -> str:
    """Quote a name for Spark SQL. It may have any characters."""
    return "`" + name.replace("`", "``") + "`"
