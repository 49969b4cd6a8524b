"""Check rules and suites before a run, without an engine: names of tables, columns and expectations.

A rule is read by DuckDB's parser, which knows most of Spark's SQL. A predicate that it cannot read is left to the run.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.definitions.tables import Table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from lakehouse.catalog import Catalog

# Arguments of expectations that name columns.
_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")
# Spark's functions without parentheses.
_CONSTANTS = {"current_date", "current_timestamp", "current_user", "current_time", "localtimestamp", "now"}


def find_problems(catalog: Catalog) -> Iterator[str]:
    """Yield the problems of all rules and suites, with the nearest names."""
    import duckdb

    yield from find_unused_suites(catalog)
    tables = [declared for declared in catalog.graph.declarations.values() if isinstance(declared, Table)]
    with duckdb.connect() as connection:
        for table in tables:
            columns = catalog.get_written_columns(table.name)
            yield from _find_rule_problems(connection, table, columns)
            if catalog.suites and catalog.suites.has_suite(table.name):
                path = catalog.suites.get_path(table.name)
                yield from (f"suite of {table.name}: {text}" for text in _find_suite_problems(path, columns))


def find_unused_suites(catalog: Catalog) -> Iterator[str]:
    """Yield the suites that belong to no table. A run does not use them."""
    if catalog.suites is None:
        return
    folder, tables = catalog.suites.folder, [n for n, d in catalog.graph.declarations.items() if isinstance(d, Table)]
    used = {catalog.suites.get_path(name) for name in tables}
    for path in sorted({*folder.rglob("*.json")} - used):
        place = path.relative_to(folder)
        hint = _suggest(".".join(place.with_suffix("").parts), tables)
        yield f"suite {place.as_posix()}: no table has this name, so it is not used{hint}"


def _find_rule_problems(connection: DuckDBPyConnection, table: Table, columns: Collection[str]) -> Iterator[str]:
    for rule in table.rules:
        for name in _list_columns(connection, rule.predicate):
            if not name.startswith("_") and name.lower() not in {c.lower() for c in columns} | _CONSTANTS:
                yield f"rule {rule.name} of {table.name}: no column {name}{_suggest(name, columns)}"


def _list_columns(connection: DuckDBPyConnection, predicate: str) -> list[str]:
    """Return the columns that a predicate names; none if the parser does not read it as Spark does."""
    if '"' in predicate or "->" in predicate:  # text and lambdas in Spark
        return []
    text = re.sub(r"\brlike\b", "LIKE", predicate.replace("`", '"'), flags=re.IGNORECASE)
    row = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {text}"]).fetchone()
    return list(dict.fromkeys(_walk_columns(json.loads(row[0])))) if row else []


def _walk_columns(node: Any) -> Iterator[str]:
    """Yield the names of columns in a syntax tree. Of a field in a struct, the column comes first."""
    if isinstance(node, dict):
        if node.get("class") == "COLUMN_REF":
            yield node["column_names"][0]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _walk_columns(child)


def _find_suite_problems(path: Path, columns: Mapping[str, str]) -> Iterator[str]:
    try:
        suite = json.loads(path.read_text(encoding="utf-8"))
        expectations = [(str(entry["type"]), dict(entry.get("kwargs") or {})) for entry in suite["expectations"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"not a suite of Great Expectations ({type(error).__name__}: {error})"
        return
    known = _list_expectations()
    for kind, arguments in expectations:
        if known and kind not in known:
            yield f"no expectation {kind}{_suggest(kind, known)}"
        for name in _list_arguments(arguments):
            if name not in columns:
                yield f"{kind}: no column {name}{_suggest(name, columns)}"


def _list_arguments(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield the columns that an expectation's arguments name."""
    for value in (arguments.get(name) for name in _COLUMN_ARGUMENTS):
        yield from ([value] if isinstance(value, str) else value if isinstance(value, list) else [])


@cache
def _list_expectations() -> frozenset[str]:
    """Return Great Expectations' own expectations by the names of its files: its import takes seconds."""
    spec = find_spec("great_expectations")
    folder = Path(spec.origin).parent / "expectations" / "core" if spec and spec.origin else Path()
    names = {file.stem for file in folder.glob("expect_*.py")}
    return frozenset(names | {"unexpected_rows_expectation"} if names else ())


def _suggest(name: str, candidates: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(candidates), n=1)
    return f"; did you mean {near[0]}?" if near else ""
