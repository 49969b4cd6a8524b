"""The public names for declarations. They load on first use: importing this package loads neither Spark nor MLflow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakehouse.definitions.contracts import Contract
    from lakehouse.definitions.rules import Rule
    from lakehouse.definitions.sources import ORIGIN_COLUMNS, Database, source
    from lakehouse.definitions.tables import incremental, lookup, table
    from lakehouse.definitions.text_formats import TextFormat
    from lakehouse.definitions.write_modes import Append, History, Merge, Rebuild, Replace
    from lakehouse.spark import parse, unparsed

__all__ = [
    "ORIGIN_COLUMNS",
    "Append",
    "Contract",
    "Database",
    "History",
    "Merge",
    "Rebuild",
    "Replace",
    "Rule",
    "TextFormat",
    "incremental",
    "lookup",
    "parse",
    "source",
    "table",
    "unparsed",
]
_MODULES = {
    "lakehouse.definitions.contracts": ("Contract",),
    "lakehouse.definitions.rules": ("Rule",),
    "lakehouse.definitions.sources": ("ORIGIN_COLUMNS", "Database", "source"),
    "lakehouse.definitions.tables": ("incremental", "lookup", "table"),
    "lakehouse.definitions.text_formats": ("TextFormat",),
    "lakehouse.definitions.write_modes": ("Append", "History", "Merge", "Rebuild", "Replace"),
    "lakehouse.spark": ("parse", "unparsed"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
