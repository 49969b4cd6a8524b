"""The graph of declared tables: load, check, order and select."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.definitions.validation import find_problems, raise_problems
from lakehouse.definitions.without_spark import allow_missing_spark
from lakehouse.errors import DeclarationError, locate_error
from lakehouse.extras import explain_missing_package

_SELECTOR = re.compile(r"(\+?)([a-z0-9_.]+?)(\+?)")


@dataclass(frozen=True)
class Graph:
    """Declared sources and tables by name. Each comes after its inputs."""

    declarations: Mapping[str, Declaration]

    def list_inputs(self, name: str) -> tuple[str, ...]:
        """Return the tables that ``name`` reads directly."""
        declared = self.declarations[name]
        if isinstance(declared, Source):
            return ()
        return tuple(dict.fromkeys(input_.table for input_ in declared.inputs.values()))

    def find_downstream(self, name: str) -> tuple[str, ...]:
        """Return every table that reads ``name``, directly or through others, in order."""
        reached = {name}
        for other in self.declarations:
            if reached & set(self.list_inputs(other)):
                reached.add(other)
        return tuple(other for other in self.declarations if other in reached - {name})

    def find_upstream(self, name: str) -> tuple[str, ...]:
        """Return every table that ``name`` reads, directly or through others, in order."""
        reached = {name}
        for other in reversed(list(self.declarations)):
            if other in reached:
                reached.update(self.list_inputs(other))
        return tuple(other for other in self.declarations if other in reached - {name})

    def select(self, selectors: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the selected tables, in order; all tables where there is no selector.

        Args:
            selectors: A table or a layer such as ``silver``. ``+t`` adds the tables that t reads, ``t+`` the tables
                that read t, ``+t+`` both.

        Raises:
            DeclarationError: Some selectors match nothing. All are listed, with the nearest names.
        """
        chosen: set[str] = set()
        problems = []
        for selector in selectors:
            match = _SELECTOR.fullmatch(selector)
            names = self._match_names(match[2]) if match else []
            if not names or match is None:
                problems.append(f"{selector!r} names no table{self._suggest_names(selector)}")
                continue
            for name in names:
                chosen.add(name)
                chosen.update(self.find_upstream(name) if match[1] else ())
                chosen.update(self.find_downstream(name) if match[3] else ())
        if problems:
            raise DeclarationError("\n".join(problems))
        return tuple(name for name in self.declarations if name in chosen or not selectors)

    def _match_names(self, text: str) -> list[str]:
        return [name for name in self.declarations if name == text or name.split(".")[0] == text]

    def _suggest_names(self, text: str) -> str:
        layers = dict.fromkeys(name.split(".")[0] for name in self.declarations)
        candidates = list(layers) if "." not in text else list(self.declarations)
        near = difflib.get_close_matches(text.strip("+"), candidates, n=2, cutoff=0.6)
        return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(self.declarations)}"


def build(declarations: Iterable[Declaration]) -> Graph:
    """Check the declarations together and order them.

    Raises:
        DeclarationError: Names are duplicate or unknown, tables read each other in a circle, or a declaration is
            wrong by itself. Every problem is listed.
    """
    graph, problems = _assemble(declarations)
    raise_problems(problems)
    return graph


def _assemble(declarations: Iterable[Declaration], *, is_complete: bool = True) -> tuple[Graph, list[str]]:
    """Return the graph of the declarations, and their problems. Without problems it is in order.

    Args:
        is_complete: No declaration is missing, so that an unknown input is a problem.
    """
    by_name: dict[str, Declaration] = {}
    problems = []
    for declared in declarations:
        if declared.name in by_name:
            problems.append(f"{declared.name}: declared twice")
        by_name[declared.name] = declared
        problems += find_problems(declared)
    for declared in by_name.values():
        if isinstance(declared, Table):
            problems += _find_input_problems(declared, by_name, is_complete) + _find_duplicating_appends(
                declared, by_name
            )
    sorter = TopologicalSorter(
        {
            name: sorted({i.table for i in declared.inputs.values()} & by_name.keys())
            if isinstance(declared, Table)
            else []
            for name, declared in sorted(by_name.items())
        }
    )
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        problems.append("tables read each other in a circle: " + " -> ".join(reversed(error.args[1])))
        order = list(by_name)
    return Graph({name: by_name[name] for name in order}), problems


def _find_duplicating_appends(table: Table, declarations: Mapping[str, Declaration]) -> list[str]:
    return [
        f"{table.name}: Append never removes a row, but a redelivered file of {input_.table} replaces the earlier one "
        "(on_redelivery='replace'); its rows would be duplicated. Use Merge"
        for input_ in table.incremental_inputs.values()
        if table.write.is_append_only
        and isinstance(source := declarations.get(input_.table), Source)
        and source.on_redelivery == "replace"
    ]


def _find_input_problems(table: Table, declarations: Mapping[str, Declaration], is_complete: bool) -> list[str]:
    problems = []
    for parameter, input_ in table.inputs.items():
        name, column = input_.table, input_.date_column
        if name not in declarations:
            near = difflib.get_close_matches(name, declarations, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems += [f"{table.name}: input {parameter}={name!r} is not declared{hint}"] if is_complete else []
        elif column is not None and declarations[name].columns.get(column) != "date":
            problems.append(f"{table.name}: {name} has no date column {column!r} to map to partitions")
    return problems


def load(modules: Iterable[str]) -> Graph:
    """Load the graph of all declarations in the given packages and modules.

    Raises:
        DeclarationError: A module cannot be imported, or the declarations do not fit together.
        MissingExtraError: A module needs a package that is not installed, such as pyspark.
    """
    declarations, problems = _import_declarations(modules)
    if problems:
        raise DeclarationError("\n".join(problems))
    return build(declarations)


def examine(modules: Iterable[str]) -> tuple[Graph, list[str]]:
    """Return the graph of the declarations that can be loaded, and the problems of all modules and declarations.

    Where there are problems, the graph is fit only for further checks.
    """
    declarations, problems = _import_declarations(modules)
    graph, more = _assemble(declarations, is_complete=not problems)
    return graph, [*problems, *more]


def list_modules(name: str) -> list[str]:
    """Import a package or module of declarations. Return its name, and those of the modules in the package."""
    paths = getattr(importlib.import_module(name), "__path__", ())
    return [name, *(module.name for module in pkgutil.iter_modules(paths, f"{name}."))]


def _import_declarations(modules: Iterable[str]) -> tuple[list[Declaration], list[str]]:
    """Return the declarations of the modules, and a problem for each reason why modules cannot be imported."""
    declarations: dict[int, Declaration] = {}
    failed: dict[str, list[str]] = {}
    for name in modules:
        pending = [name]
        while pending:
            current = pending.pop(0)
            try:
                with allow_missing_spark():
                    if current == name:
                        pending += list_modules(name)[1:]
                    loaded = vars(importlib.import_module(current))
            except Exception as error:  # A mistake in a declaration can raise any type.
                if missing := explain_missing_package(error):
                    raise missing from error
                reason = str(error) if isinstance(error, DeclarationError) else f"{type(error).__name__}: {error}"
                failed.setdefault(f"{reason}{locate_error(error)}", []).append(repr(current))
            else:
                declarations |= {id(v): v for v in loaded.values() if isinstance(v, Source | Table)}
    problems = [f"The declarations in {', '.join(names)} cannot be loaded: {why}" for why, names in failed.items()]
    if not declarations and not problems:
        problems = ["No table is declared. Check `declarations` in conf/base.yml."]
    return list(declarations.values()), problems
