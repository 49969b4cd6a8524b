"""Fingerprints of declarations and their functions, by which a commit names its code."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.definitions.text_formats import TextFormat
from lakehouse.errors import INSTALL_FOLDERS

HASH_LENGTH = 12
# Python 3.11 before 3.11.8 has one counter of the tree's depth for all threads. If a garbage collection switches
# threads, two parsers fail (github.com/python/cpython/issues/106905).
PARSE_LOCK = threading.Lock()


def compute_fingerprint(declared: Declaration) -> str:
    """Compute a short hash of the declaration, its function, and the project's functions and constants that these use.

    Comments, docstrings and formatting do not count.
    """
    # Defaults that older fingerprints do not have are left out.
    data = {
        name: value
        for name, value in vars(declared).items()
        if name != "function" and value != Contract() and (value or name not in ("header_names", "path_columns"))
    }
    parts = [json.dumps(data, default=_to_plain_dict, sort_keys=True)]
    if isinstance(declared, Table):
        parts += sorted(_walk_sources(declared.function, set()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:HASH_LENGTH]


def compute_code_fingerprint(function: Callable[..., Any]) -> str:
    """Compute the same hash for a function alone."""
    return hashlib.sha256("\n".join(sorted(_walk_sources(function, set()))).encode()).hexdigest()[:HASH_LENGTH]


def can_read_column(table: Table, column: str) -> bool:
    """Return whether the column's name is in the source of the table's function, or of one that it uses.

    As a rule such a function reads the column.
    """
    word = re.compile(rf"(?<!\w){re.escape(column)}(?!\w)")
    return any(word.search(source) for source in _walk_sources(table.function, set()))


def _to_plain_dict(value: Any) -> Any:
    if hasattr(value, "items"):
        return dict(value)
    return {"type": type(value).__name__, **vars(value)}


def _walk_sources(function: Callable[..., Any], visited: set[int]) -> Iterator[str]:
    """Yield the function's syntax tree, and in turn those of the project's functions that it uses."""
    if id(function) in visited or not isinstance(function, FunctionType):
        return
    visited.add(id(function))
    text = textwrap.dedent(inspect.getsource(function))
    with PARSE_LOCK:
        tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    yield ast.dump(tree)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _describe_use(name, cell.cell_contents, visited)
    names = _collect_names(function.__code__)
    for name in sorted(names):
        used = function.__globals__.get(name)
        if isinstance(used, ModuleType) and _is_in_project(used.__file__):
            for attribute in sorted(names & vars(used).keys()):
                yield from _describe_use(f"{name}.{attribute}", vars(used)[attribute], visited)
        else:
            yield from _describe_use(name, used, visited)


def _describe_use(name: str, used: Any, visited: set[int]) -> Iterator[str]:
    """Yield the sources of a used function, or the value of a used constant."""
    used = inspect.unwrap(used) if callable(used) else used  # Decorators such as @cache wrap a function.
    if isinstance(used, FunctionType) and _is_project_function(used):
        yield from _walk_sources(used, visited)
    elif isinstance(used, Table):
        yield from _walk_sources(used.function, visited)
    elif isinstance(used, set | frozenset):
        yield f"{name}={sorted(used, key=repr)!r}"
    elif isinstance(used, str | int | float | tuple | list | dict | range | TextFormat):
        yield f"{name}={used!r}"


def _collect_names(code: CodeType) -> set[str]:
    nested = [_collect_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*nested)


def _is_project_function(function: FunctionType) -> bool:
    return _is_in_project(inspect.getsourcefile(function))


def _is_in_project(file: str | None) -> bool:
    return file is not None and not {*INSTALL_FOLDERS} & {*Path(file).parents}
