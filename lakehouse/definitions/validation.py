"""What is wrong with a declaration taken alone, told in sentences."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import get_args

from lakehouse.definitions.contracts import OnChangedType, OnMissingColumn, OnNewColumn
from lakehouse.definitions.identifiers import COLUMN_PATTERN
from lakehouse.definitions.rules import KEY_RULE, MALFORMED_RULE, PARSED_RULE, OnViolation
from lakehouse.definitions.sources import (
    LANDING_COLUMNS,
    MALFORMED,
    RESCUED,
    SECRET_IN_URL,
    Database,
    Format,
    OnRedelivery,
    Source,
)
from lakehouse.definitions.tables import TYPES, UNPARSED, Declaration, Table
from lakehouse.definitions.write_modes import WRITE_MODES, History, Merge, Replace, WriteMode
from lakehouse.errors import DeclarationError

# What the platform adds to tables, and to rows while it works on them.
_RESERVED = {*LANDING_COLUMNS, MALFORMED, RESCUED, UNPARSED}
# What a table's rows have besides while they are put in order, compared and merged.
_WORK_COLUMNS = {
    "_changed", "_class", "_delete", "_ends", "_gap", "_known", "_next", "_own", "_partition", "_rank", "_stay", "_expected",
}  # fmt: skip
_NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
_LANDING = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*")
# What a cursor can be besides a time: numbers that tell one row from the next.
_NUMERIC_CURSOR_TYPES = ("smallint", "int", "bigint", "decimal")
_NESTED_TYPE = re.compile(r"decimal\(\d+,\d+\)|(array|map|struct)<.+>")


def find_problems(declared: Declaration) -> list[str]:
    """What is wrong with one declaration taken alone, in sentences."""
    found = []
    if not _NAME.fullmatch(declared.name):
        found.append(f"{declared.name!r}: a table's name is layer.table in lower case, such as silver.orders")
    found += [
        f"{declared.name}: column {c!r} is not a plain name"
        for c in declared.columns
        if not COLUMN_PATTERN.fullmatch(c)
    ]
    found += [
        f"{declared.name}: column {c} has type {kind!r}, which is none of Spark SQL's ({', '.join(TYPES)}, decimal(p,s), "
        "array<>, map<>, struct<>)"
        for c, kind in declared.columns.items()
        if kind not in TYPES and not _NESTED_TYPE.fullmatch(kind)
    ]
    found += _find_name_problems(declared)
    if isinstance(declared, Table):
        return found + _find_table_problems(declared)
    if not _LANDING.fullmatch(declared.landing):
        found.append(
            f"{declared.name}: landing={declared.landing!r} is not a folder below the landing zone, of plain names"
        )
    contract = declared.contract
    for parameter, value, allowed in (
        ("format", declared.format, Format),
        ("on_redelivery", declared.on_redelivery, OnRedelivery),
        ("new_column", contract.new_column, OnNewColumn),
        ("missing_column", contract.missing_column, OnMissingColumn),
        ("changed_type", contract.changed_type, OnChangedType),
    ):
        if value not in get_args(allowed):
            found.append(f"{declared.name}: {parameter}={value!r} is not one of {', '.join(get_args(allowed))}")
    if declared.format == "csv" and set(declared.columns.values()) - {"string"}:
        found.append(f"{declared.name}: a CSV source lands as strings; give types in silver")
    return found + _find_database_problems(declared)


def _find_name_problems(declared: Declaration) -> list[str]:
    """Names that Delta or the platform would take for one another: it does not tell upper from lower case."""
    by_lower: dict[str, list[str]] = {}
    for column in declared.columns:
        by_lower.setdefault(column.lower(), []).append(column)
    alike = [f"columns {' and '.join(names)} differ only in case" for names in by_lower.values() if len(names) > 1]
    reserved = _RESERVED | _WORK_COLUMNS if isinstance(declared, Table) else _RESERVED
    taken = [names[0] for lower, names in by_lower.items() if lower in reserved]
    return [f"{declared.name}: {one}" for one in [*alike, *(f"column {c} is the platform's own name" for c in taken)]]


def _find_database_problems(source: Source) -> list[str]:
    database = source.database
    if database is None:
        return []
    found = (
        [] if source.format == "parquet" else [f"{source.name}: what comes from a database lands as format='parquet'"]
    )
    if not database.key:
        found.append(f"{source.name}: its database needs a key, the columns that order its rows")
    unknown = [c for c in (*database.key, *([database.cursor] if database.cursor else [])) if c not in source.columns]
    found += [f"{source.name}: its database's {c} is none of its columns" for c in unknown]
    if SECRET_IN_URL.search(database.url):
        found.append(f"{source.name}: its database's url holds a password; name variables in user and password instead")
    if source.settle_seconds:
        found.append(
            f"{source.name}: settle_seconds would hold back its own extracts; give Database(settle_seconds=...)"
        )
    if database.cursor is None and source.on_redelivery != "replace":
        found.append(f"{source.name}: a second snapshot of a day replaces the first: give on_redelivery='replace'")
    return found + _find_cursor_problems(source, database)


def _find_cursor_problems(source: Source, database: Database) -> list[str]:
    if database.cursor is None or database.cursor not in source.columns:
        return []
    kind, settle = source.columns[database.cursor], database.settle_seconds
    if kind.startswith("timestamp") and not settle:
        return [
            f"{source.name}: rows with an earlier {database.cursor} may become visible later: give Database(settle_seconds=...), "
            "longer than any transaction takes"
        ]
    if not kind.startswith(("timestamp", *_NUMERIC_CURSOR_TYPES)):
        return [f"{source.name}: its cursor {database.cursor} is a {kind}, which is neither a number nor a timestamp"]
    if settle and not kind.startswith("timestamp"):
        return [f"{source.name}: settle_seconds need a cursor that is a timestamp, not a {kind}"]
    return []


def _find_table_problems(table: Table) -> list[str]:
    found = [*_find_parameter_problems(table), *_find_rule_problems(table), *_find_write_problems(table)]
    return [f"{table.name}: {problem}" for problem in found]


def _find_rule_problems(table: Table) -> list[str]:
    levels = get_args(OnViolation)
    found = [
        f"rule {rule.name} is to {rule.on_violation!r}, which is not one of {', '.join(levels)}"
        for rule in table.rules
        if rule.on_violation not in levels
    ]
    doubled = {rule.name for rule in table.rules if [r.name for r in table.rules].count(rule.name) > 1}
    own = [rule.name for rule in table.rules if rule.name in (KEY_RULE, MALFORMED_RULE, PARSED_RULE)]
    found += [f"rule {name} is the platform's own name" for name in own]
    return found + [f"two rules are called {name!r}" for name in sorted(doubled)]


def _find_write_problems(table: Table) -> list[str]:
    write = table.write
    if not isinstance(write, WriteMode):
        return [f"write={write!r} is not one of {', '.join(f'{way.__name__}()' for way in WRITE_MODES)}"]
    found, named = [], [*table.key, *table.stats]
    if isinstance(write, Merge | History) and not table.key:
        found.append("this way of writing needs a key")
    if write.is_row_preserving and len(table.incremental_inputs) != 1:
        found.append(f"{type(write).__name__} needs exactly one driver, got {len(table.incremental_inputs)}")
    if isinstance(write, Merge) and isinstance(write.newest_by, str):
        found.append(f"newest_by={write.newest_by!r} is text, not columns; write ({write.newest_by!r},)")
    elif isinstance(write, Merge):
        named += write.newest_by
    elif isinstance(write, History):
        named.append(write.effective_column)
    elif isinstance(write, Replace):
        if table.columns.get(write.partition) != "date":
            found.append(f"the partition {write.partition!r} must be one of its date columns")
        found += [
            f"driver {one.table} must say by which date column it maps to partitions (incremental(..., date_column=...))"
            for one in table.incremental_inputs.values()
            if one.date_column is None
        ]
    return found + [f"column {c!r} is named but not declared" for c in dict.fromkeys(named) if c not in table.columns]


def _find_parameter_problems(table: Table) -> list[str]:
    parameters = list(inspect.signature(table.function).parameters.values())
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return []
    known = {p.name for p in parameters}
    found = [f"its function takes no parameter {name!r}" for name in table.inputs if name not in known]
    needed = [p.name for p in parameters if p.default is p.empty and p.name not in table.inputs]
    return found + [f"its function's parameter {name!r} names no input" for name in needed]


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one DeclarationError that lists every problem; do nothing where there is none."""
    if problems:
        raise DeclarationError("The declared tables do not fit together:\n  - " + "\n  - ".join(problems))
