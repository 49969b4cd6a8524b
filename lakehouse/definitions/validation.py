"""Validation of a single declaration. Every problem is described in words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import get_args

from lakehouse.definitions.contracts import OnChangedType, OnMissingColumn, OnNewColumn
from lakehouse.definitions.data_types import find_type_problem
from lakehouse.definitions.identifiers import COLUMN_PATTERN
from lakehouse.definitions.options import find_option_problems
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
from lakehouse.definitions.tables import UNPARSED, Declaration, OnLookupChange, Table
from lakehouse.definitions.write_modes import WRITE_MODES, History, Merge, PartitionUnit, Replace, WriteMode
from lakehouse.errors import DeclarationError

# Columns that the platform adds to tables, and to rows during a write.
_RESERVED = {*LANDING_COLUMNS, MALFORMED, RESCUED, UNPARSED}
# Further columns of a table's rows while the platform orders, compares and merges them.
_WORK_COLUMNS = {
    "_changed",
    "_class",
    "_delete",
    "_ends",
    "_expected",
    "_gap",
    "_known",
    "_next",
    "_own",
    "_partition",
    "_rank",
    "_stay",
}
_NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
_LANDING = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*")
# Types of a cursor other than a time: exact numbers.
_NUMERIC_CURSOR_TYPES = ("smallint", "int", "bigint", "decimal")


def find_problems(declared: Declaration) -> list[str]:
    """Return the problems of one declaration, without regard to the others."""
    problems = []
    if not _NAME.fullmatch(declared.name):
        problems.append(f"{declared.name!r}: a table's name is layer.table in lower case, such as silver.orders")
    problems += [
        f"{declared.name}: column {c!r} is not a plain name"
        for c in declared.columns
        if not COLUMN_PATTERN.fullmatch(c)
    ]
    problems += [
        f"{declared.name}: column {c} has type {kind!r}, {problem}"
        for c, kind in declared.columns.items()
        if (problem := find_type_problem(kind))
    ]
    problems += _find_name_problems(declared)
    if not all(isinstance(kind, str) for kind in declared.columns.values()):  # the checks below read types
        return problems
    if isinstance(declared, Table):
        return problems + _find_table_problems(declared)
    return problems + _find_source_problems(declared) + _find_database_problems(declared)


def _find_source_problems(source: Source) -> list[str]:
    problems = []
    if not _LANDING.fullmatch(source.landing):
        problems.append(
            f"{source.name}: landing={source.landing!r} is not a folder below the landing zone, with plain names"
        )
    contract = source.contract
    for parameter, value, allowed in (
        ("format", source.format, Format),
        ("on_redelivery", source.on_redelivery, OnRedelivery),
        ("new_column", contract.new_column, OnNewColumn),
        ("missing_column", contract.missing_column, OnMissingColumn),
        ("changed_type", contract.changed_type, OnChangedType),
    ):
        if value not in get_args(allowed):
            problems.append(f"{source.name}: {parameter}={value!r} is not one of {', '.join(get_args(allowed))}")
    problems += _find_header_problems(source) + _find_path_column_problems(source)
    if source.format == "csv" and set(source.columns.values()) - {"string"}:
        problems.append(f"{source.name}: a CSV source lands as strings; declare types in silver")
    problems += [f"{source.name}: {problem}" for problem in find_option_problems(source.format, source.options)]
    return problems


def _find_header_problems(source: Source) -> list[str]:
    names = source.header_names
    problems = [f"header_names has column {c!r}, which is not declared" for c in names if c not in source.columns]
    labels = list(names.values())
    problems += [f"header_names has {label!r} twice" for label in sorted({n for n in labels if labels.count(n) > 1})]
    problems += [
        f"header_names has {label!r} for column {c}, which is the name of another column"
        for c, label in names.items()
        if label in source.columns and label != c
    ]
    if names and source.format != "csv":
        problems.append("header_names is for CSV files")
    return [f"{source.name}: {problem}" for problem in problems]


def _find_path_column_problems(source: Source) -> list[str]:
    columns = source.path_columns
    problems = [f"path_columns has {c!r}, which is not declared" for c in columns if c not in source.columns]
    problems += [
        f"path_columns has {c!r} with type {source.columns[c]}; a path has no nested or binary values"
        for c in columns
        if source.columns.get(c, "") == "binary" or "<" in source.columns.get(c, "")
    ]
    if columns and not source.columns.keys() - {*columns}:
        problems.append("path_columns has every column; at least one must be in the files")
    if columns and source.database:
        problems.append("path_columns is for files, not for a database")
    return [f"{source.name}: {problem}" for problem in problems]


def _find_name_problems(declared: Declaration) -> list[str]:
    """Return the problems of column names that Delta, which ignores case, or the platform would confuse."""
    by_lower: dict[str, list[str]] = {}
    for column in declared.columns:
        by_lower.setdefault(column.lower(), []).append(column)
    duplicates = [f"columns {' and '.join(names)} differ only in case" for names in by_lower.values() if len(names) > 1]
    reserved = _RESERVED | _WORK_COLUMNS if isinstance(declared, Table) else _RESERVED
    platform = [
        f"column {names[0]} uses a name that is reserved by the platform"
        for c, names in by_lower.items()
        if c in reserved
    ]
    return [f"{declared.name}: {problem}" for problem in [*duplicates, *platform]]


def _find_database_problems(source: Source) -> list[str]:
    database = source.database
    if database is None:
        return []
    problems = []
    if source.format != "parquet":
        problems.append("extracts of a database land as format='parquet'")
    if not database.key:
        problems.append("the database needs a key: the columns that order its rows")
    unknown = [c for c in (*database.key, *([database.cursor] if database.cursor else [])) if c not in source.columns]
    problems += [f"the database's column {c} is not declared" for c in unknown]
    if SECRET_IN_URL.search(database.url):
        problems.append("the database's url has a password; name variables in user and password instead")
    if source.settle_seconds:
        problems.append("settle_seconds would delay the source's own extracts; use Database(settle_seconds=...)")
    if database.cursor is None and source.on_redelivery != "replace":
        problems.append("a second snapshot of a day replaces the first; use on_redelivery='replace'")
    return [f"{source.name}: {problem}" for problem in (*problems, *_find_cursor_problems(source, database))]


def _find_cursor_problems(source: Source, database: Database) -> list[str]:
    if database.cursor is None or database.cursor not in source.columns:
        return []
    kind, settle = source.columns[database.cursor], database.settle_seconds
    if kind.startswith("timestamp") and not settle:
        return [
            f"rows with an earlier {database.cursor} may become visible later; use Database(settle_seconds=...), "
            "longer than any transaction"
        ]
    if not kind.startswith(("timestamp", *_NUMERIC_CURSOR_TYPES)):
        return [f"the cursor {database.cursor} is a {kind}, which is neither a number nor a timestamp"]
    if settle and not kind.startswith("timestamp"):
        return [f"settle_seconds needs a cursor that is a timestamp, not a {kind}"]
    return []


def _find_table_problems(table: Table) -> list[str]:
    problems = [
        *_find_parameter_problems(table),
        *_find_input_problems(table),
        *_find_rule_problems(table),
        *_find_write_problems(table),
    ]
    return [f"{table.name}: {problem}" for problem in problems]


def _find_rule_problems(table: Table) -> list[str]:
    levels = get_args(OnViolation)
    problems = [
        f"rule {rule.name} has on_violation={rule.on_violation!r}, which is not one of {', '.join(levels)}"
        for rule in table.rules
        if rule.on_violation not in levels
    ]
    problems += [
        f"rule {rule.name} has predicate={rule.predicate!r}, which is not SQL such as 'amount > 0'"
        for rule in table.rules
        if not isinstance(rule.predicate, str) or not rule.predicate.strip()
    ]
    names = [rule.name for rule in table.rules]
    reserved = [name for name in names if name in (KEY_RULE, MALFORMED_RULE, PARSED_RULE)]
    problems += [f"rule {name} uses a name that is reserved by the platform" for name in reserved]
    return problems + [f"two rules are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]


def _find_input_problems(table: Table) -> list[str]:
    """Return the inputs with options that do not fit the table."""
    problems = []
    for input_ in table.inputs.values():
        for parameter, days in (("lookback_days", input_.lookback_days), ("affects_days", input_.affects_days)):
            if not isinstance(days, int) or days < 0:
                problems.append(f"input {input_.table} has {parameter}={days!r}, which is not a number of days from 0")
            elif days and not table.partitioning:
                problems.append(f"input {input_.table} has {parameter}={days}, which is for tables with Replace()")
        if input_.on_change not in get_args(OnLookupChange):
            allowed = ", ".join(get_args(OnLookupChange))
            problems.append(f"input {input_.table} has on_change={input_.on_change!r}, which is not one of {allowed}")
    return problems


def _find_write_problems(table: Table) -> list[str]:
    write = table.write
    if not isinstance(write, WriteMode):
        return [f"write={write!r} is not one of {', '.join(f'{mode.__name__}()' for mode in WRITE_MODES)}"]
    problems, columns = [], [*table.key, *table.stats]
    if isinstance(write, Merge | History) and not table.key:
        problems.append(f"{type(write).__name__} needs a key")
    if write.is_row_preserving and len(table.incremental_inputs) != 1:
        problems.append(
            f"{type(write).__name__} needs exactly one incremental input, got {len(table.incremental_inputs)}"
        )
    if isinstance(write, Merge) and isinstance(write.newest_by, str):
        problems.append(f"newest_by={write.newest_by!r} is text, not columns; write ({write.newest_by!r},)")
    elif isinstance(write, Merge):
        columns += write.newest_by
    elif isinstance(write, History):
        columns.append(write.effective_column)
    elif isinstance(write, Replace):
        if table.columns.get(write.partition) != "date":
            problems.append(f"the partition {write.partition!r} must be a declared date column")
        if write.unit not in get_args(PartitionUnit):
            problems.append(f"unit={write.unit!r} is not one of {', '.join(get_args(PartitionUnit))}")
        problems += [
            f"incremental input {input_.table} needs a date column that maps it to partitions "
            "(incremental(..., date_column=...))"
            for input_ in table.incremental_inputs.values()
            if input_.date_column is None
        ]
    named = [*dict.fromkeys(columns)]
    problems += [
        f"column {c} has a map, which has no order; use another column in key, newest_by and stats"
        for c in named
        if "map<" in table.columns.get(c, "")
    ]
    return problems + [f"column {c!r} is not declared" for c in named if c not in table.columns]


def _find_parameter_problems(table: Table) -> list[str]:
    parameters = list(inspect.signature(table.function).parameters.values())
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return []
    names = {p.name for p in parameters}
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in table.inputs]
    return [
        *(f"its function takes no parameter {name!r}" for name in table.inputs if name not in names),
        *(f"its function's parameter {name!r} has no input" for name in missing),
    ]


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one error that lists every problem, if there is any.

    Raises:
        DeclarationError: There is a problem.
    """
    if problems:
        raise DeclarationError("The declarations have these problems:\n  - " + "\n  - ".join(problems))
