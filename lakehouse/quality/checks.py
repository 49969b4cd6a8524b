"""Check rules and suites before a run, without an engine: SQL, and names of tables, columns and expectations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakehouse.definitions.graph import Graph
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import UNPARSED, Table
from lakehouse.definitions.write_modes import VALIDITY_COLUMNS, History
from lakehouse.quality.predicates import find_predicate_problems, suggest
from lakehouse.quality.problems import Problem

if TYPE_CHECKING:
    from lakehouse.catalog import Catalog

# Arguments of expectations that name columns.
_COLUMN_ARGUMENTS = ("column", "column_A", "column_B", "column_list")


def find_problems(catalog: Catalog) -> Iterator[Problem]:
    """Yield the problems of all rules and suites, with the nearest names. Declarations may have problems themselves."""
    yield from find_unused_suites(catalog)
    for table in list_tables(catalog.graph):
        staged = _list_staged_columns(catalog.graph, table)
        for rule in table.rules:
            if isinstance(rule.predicate, str) and rule.predicate.strip():  # else reported with the declaration
                place = f"rule {rule.name} of {table.name}"
                yield from (p.within(place) for p in find_predicate_problems(rule.predicate, staged))
        if catalog.suites and catalog.suites.has_suite(table.name):
            added = VALIDITY_COLUMNS if isinstance(table.write, History) else ()
            written = {**staged, **dict.fromkeys(added, "")}
            written.pop(UNPARSED)
            problems = _find_suite_problems(catalog.suites.get_path(table.name), written)
            yield from (problem.within(f"suite of {table.name}") for problem in problems)


def list_tables(graph: Graph) -> list[Table]:
    """Return the declared tables without the sources."""
    return [declared for declared in graph.declarations.values() if isinstance(declared, Table)]


def find_unused_suites(catalog: Catalog) -> Iterator[Problem]:
    """Yield a warning for each suite that belongs to no table. A run does not use it."""
    if catalog.suites is None:
        return
    folder, tables = catalog.suites.folder, [table.name for table in list_tables(catalog.graph)]
    used = {catalog.suites.get_path(name) for name in tables}
    for path in sorted({*folder.rglob("*.json")} - used):
        place = path.relative_to(folder)
        hint = suggest(".".join(place.with_suffix("").parts), tables)
        yield Problem(f"suite {place.as_posix()}: no table has this name, so it is not used{hint}", is_error=False)


def _list_staged_columns(graph: Graph, table: Table) -> dict[str, str]:
    """Return the columns of the rows that a table's rules see, with their types."""
    inputs = [graph.declarations.get(input_.table) for input_ in table.incremental_inputs.values()]
    is_landed = getattr(table.write, "is_row_preserving", False) and any(isinstance(i, Source) for i in inputs)
    origin = dict.fromkeys(ORIGIN_COLUMNS, "bigint") if is_landed else {}
    return {**table.columns, **origin, UNPARSED: "array<string>"}


def _find_suite_problems(path: Path, columns: Mapping[str, str]) -> Iterator[Problem]:
    try:
        suite = json.loads(path.read_text(encoding="utf-8"))
        expectations = [(str(entry["type"]), dict(entry.get("kwargs") or {})) for entry in suite["expectations"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Problem(f"not a suite of Great Expectations ({type(error).__name__}: {error})")
        return
    known = _list_expectations()
    for kind, arguments in expectations:
        if known and kind not in known:
            yield Problem(f"no expectation {kind}{suggest(kind, known)}")
        for name in _list_arguments(arguments):
            if name not in columns:
                yield Problem(f"{kind}: no column {name}{suggest(name, columns)}")
        yield from (
            problem.within(f"{kind}: row_condition") for problem in _find_condition_problems(arguments, columns)
        )


def _find_condition_problems(arguments: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with the SQL condition that limits an expectation to some rows."""
    condition = arguments.get("row_condition")
    if isinstance(condition, str) and arguments.get("condition_parser") == "spark":
        yield from find_predicate_problems(condition, columns)


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
