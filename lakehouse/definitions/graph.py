"""The graph of declared tables: loaded from modules, checked whole, ordered, selected from."""

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
from lakehouse.errors import DeclarationError, locate_error

_SELECTOR = re.compile(r"(\+?)([a-z0-9_.]+?)(\+?)")


@dataclass(frozen=True)
class Graph:
    """Declared sources and tables by name, in an order in which each comes after its inputs."""

    declarations: Mapping[str, Declaration]

    def inputs(self, name: str) -> tuple[str, ...]:
        declared = self.declarations[name]
        if isinstance(declared, Source):
            return ()
        return tuple(dict.fromkeys(one.table for one in declared.inputs.values()))

    def downstream(self, name: str) -> tuple[str, ...]:
        """Every table that reads ``name``, directly or through others, in order."""
        reached = {name}
        for other in self.declarations:
            if reached & set(self.inputs(other)):
                reached.add(other)
        return tuple(other for other in self.declarations if other in reached - {name})

    def upstream(self, name: str) -> tuple[str, ...]:
        """Every table that ``name`` reads, directly or through others, in order."""
        reached = {name}
        for other in reversed(list(self.declarations)):
            if other in reached:
                reached.update(self.inputs(other))
        return tuple(other for other in self.declarations if other in reached - {name})

    def select(self, selectors: Iterable[str] = ()) -> tuple[str, ...]:
        """The tables that the selectors name, in order; all without any.

        A selector is a table, ``+t`` for t and what it reads, ``t+`` for t and what reads it, ``+t+`` for both, or
        a layer such as ``silver``.

        Raises:
            DeclarationError: a selector names nothing; all such are listed, with the nearest names.
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
                chosen.update(self.upstream(name) if match[1] else ())
                chosen.update(self.downstream(name) if match[3] else ())
        if problems:
            raise DeclarationError("\n".join(problems))
        return tuple(name for name in self.declarations if name in chosen or not selectors)

    def _match_names(self, text: str) -> list[str]:
        return [name for name in self.declarations if name == text or name.split(".")[0] == text]

    def _suggest_names(self, text: str) -> str:
        layers = dict.fromkeys(name.split(".")[0] for name in self.declarations)
        known = list(layers) if "." not in text else list(self.declarations)
        near = difflib.get_close_matches(text.strip("+"), known, n=2, cutoff=0.6)
        return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(self.declarations)}"


def build(declarations: Iterable[Declaration]) -> Graph:
    """Check the declarations together and order them.

    Raises:
        DeclarationError: names are doubled or unknown, tables read each other in a circle, or a declaration is wrong
            by itself; every problem is listed.
    """
    by_name: dict[str, Declaration] = {}
    problems = []
    for one in declarations:
        if one.name in by_name:
            problems.append(f"{one.name}: declared twice")
        by_name[one.name] = one
        problems += find_problems(one)
    for one in by_name.values():
        if isinstance(one, Table):
            problems += _find_unknown_inputs(one, by_name) + _find_duplicating_appends(one, by_name)
    sorter = TopologicalSorter(
        {
            name: sorted({i.table for i in one.inputs.values()} & by_name.keys()) if isinstance(one, Table) else []
            for name, one in sorted(by_name.items())
        }
    )
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        problems.append("tables read each other in a circle: " + " -> ".join(reversed(error.args[1])))
        order = []
    raise_problems(problems)
    return Graph({name: by_name[name] for name in order})


def _find_duplicating_appends(table: Table, known: Mapping[str, Declaration]) -> list[str]:
    return [
        f"{table.name}: Append never takes a row back, but a file of {one.table} that is delivered again replaces the earlier one "
        "(on_redelivery='replace'): its rows would be there twice; use Merge"
        for one in table.incremental_inputs.values()
        if table.write.is_append_only
        and isinstance(driver := known.get(one.table), Source)
        and driver.on_redelivery == "replace"
    ]


def _find_unknown_inputs(table: Table, known: Mapping[str, Declaration]) -> list[str]:
    problems = []
    for parameter, one in table.inputs.items():
        if one.table not in known:
            near = difflib.get_close_matches(one.table, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{table.name}: its input {parameter}={one.table!r} is not declared{hint}")
        elif one.date_column is not None and known[one.table].columns.get(one.date_column) != "date":
            problems.append(f"{table.name}: {one.table} has no date column {one.date_column!r} to map to partitions")
    return problems


def load(modules: Iterable[str]) -> Graph:
    """The graph of everything that the named packages and modules declare.

    Raises:
        DeclarationError: a module cannot be imported, or the declarations do not fit together.
    """
    found: dict[int, Declaration] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
            submodules = pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")
            for loaded in [module, *(importlib.import_module(sub.name) for sub in submodules)]:
                found.update({id(v): v for v in vars(loaded).values() if isinstance(v, Source | Table)})
        except Exception as error:  # whatever a mistake in a declaration raises
            said = str(error) if isinstance(error, DeclarationError) else f"{type(error).__name__}: {error}"
            raise DeclarationError(
                f"The declarations in {name!r} cannot be loaded: {said}{locate_error(error)}"
            ) from error
    if not found:
        raise DeclarationError("No table is declared: check `declarations` in conf/base.yml.")
    return build(found.values())
