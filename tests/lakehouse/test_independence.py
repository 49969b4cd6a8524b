"""The platform's tests use nothing of the example project, and thus prove the platform for any project."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.paths import PROJECT

EXAMPLE = {"bronze", "silver", "gold", "models", "flights"}
TESTS = PROJECT / "tests"
FOLDERS = ("lakehouse", "deploy", "faults", "servers", "orders")


@cache
def list_imports(file: Path) -> tuple[str, ...]:
    """Return the dotted names that a file imports, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from tests import fleet` names a module, and `from tests.fleet import HEADER` does not. Try both.
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(names)


def find_files(name: str, root: Path) -> Iterator[Path]:
    """Yield the files below the root that run when a name is imported."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        path = root.joinpath(*parts[:length])
        yield from (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists())


def find_example_imports(file: Path, root: Path) -> list[str]:
    """Return the example's names that a file imports, itself or by way of other files below the root."""
    problems, files = set(), [file]
    for file_to_read in files:  # The list grows during the loop.
        for name in list_imports(file_to_read):
            if name.partition(".")[0] in EXAMPLE:
                via = "" if file_to_read == file else f" by way of {file_to_read.relative_to(root)}"
                problems.add(f"{file.relative_to(root)} imports {name}{via}")
            else:
                files += [imported for imported in find_files(name, root) if imported not in files]
    return sorted(problems)


def test_platform_tests_import_nothing_of_the_example() -> None:
    files = sorted([*TESTS.glob("*.py"), *(file for folder in FOLDERS for file in (TESTS / folder).rglob("*.py"))])
    assert TESTS / "lakehouse" / "test_independence.py" in files
    problems = [problem for file in files for problem in find_example_imports(file, PROJECT)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("import gold.flight_features", "imports gold.flight_features"),
        ("def f():\n    from models import trees", "imports models.trees"),
        ("from tests import support", "imports flights.clock by way of tests/support.py"),
        ("from tests.support import clock", "imports flights.clock by way of tests/support.py"),
        ("import lakehouse.models, modelstore", None),
    ],
)
def test_direct_and_indirect_imports_are_found(tmp_path: Path, line: str, problem: str | None) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "support.py").write_text("from flights import clock\nimport test_x\n")
    file = tmp_path / "test_x.py"
    file.write_text(f"{line}\n")
    assert find_example_imports(file, tmp_path) == ([f"test_x.py {problem}"] if problem else [])
