"""Names of columns: which are allowed, and how SQL quotes them."""

from __future__ import annotations

import re

from lakehouse.errors import DeclarationError

COLUMN_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def refuse_text(name: str, **columns: object) -> None:
    """Refuse ("id"), which is text and would be taken for columns i and d."""
    for parameter, value in columns.items():
        if isinstance(value, str):
            raise DeclarationError(
                f"{name}: {parameter}={value!r} is text, not columns; write {parameter}=({value!r},)."
            )


def quote_identifier(name: str) -> str:
    """A name as Spark's SQL says it, whatever it is made of."""
    return "`" + name.replace("`", "``") + "`"
