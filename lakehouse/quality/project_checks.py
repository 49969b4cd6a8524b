"""Check a project's folder before a run: modules of models, files in conf/, and declarations that nothing reads."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import yaml

from lakehouse.quality.predicates import suggest
from lakehouse.quality.problems import Problem
from lakehouse.settings import Settings

_PLATFORM: Final = Path(__file__).resolve().parent.parent
# A statement of a module that declares a source or a table.
_DECLARATION: Final = re.compile(r"^(@(\w+\.)?table\(|\w+ *= *(\w+\.)?source\()", re.MULTILINE)
# Folders whose declarations are not meant for a run.
_OTHER_FOLDERS: Final = frozenset(("tests", "test", "benchmarks", "docs", "notebooks", "build", "dist"))


def find_problems(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of a project's models and files. The declarations must have been imported."""
    for name, module in settings.models.items():
        yield from (problem.within(f"model {name}") for problem in _find_model_problems(module))
    if settings.example and _find_module(settings.example) is None:
        yield Problem(f"setting example: there is no module {settings.example}")
    yield from _find_profile_problems(settings.conf)
    yield from _find_unread_files(settings.conf)
    yield from _find_unread_declarations(settings.project)


def _find_model_problems(module: str) -> Iterator[Problem]:
    """Yield the problems of a model's module, which is not imported: that would load libraries that train."""
    spec = _find_module(module)
    if spec is None:
        yield Problem(f"there is no module {module}; correct `models` in conf/base.yml")
        return
    if spec.origin is None or not spec.origin.endswith(".py"):
        return
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        yield Problem(f"{module} cannot be read: {error}")
        return
    for package in _list_code_paths(tree):
        code = _find_module(package)
        if code is None or not code.submodule_search_locations:
            yield Problem(f"CODE names {package!r}, which is no package")


def _list_code_paths(tree: ast.Module) -> list[str]:
    """Return the packages in a module's CODE, where it is written as a literal."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "CODE" for t in node.targets):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:  # computed
                return []
            return [entry for entry in value if isinstance(entry, str)] if isinstance(value, tuple | list) else []
    return []


def _find_module(name: str) -> ModuleSpec | None:
    """Find a module without importing it or the packages that it is in."""
    first, *rest = name.split(".")
    try:
        spec = find_spec(first)
    except (ImportError, ValueError):
        return None
    path = first
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = f"{path}.{part}"
        spec = PathFinder.find_spec(path, [*spec.submodule_search_locations])
    return spec


def _find_profile_problems(conf: Path) -> Iterator[Problem]:
    """Yield unknown settings and missing files of every profile. Other values are checked when the profile is used."""
    for file in sorted(conf.glob("*.yml")):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            yield Problem(f"conf/{file.name}: cannot be read: {' '.join(str(error).split())}")
            continue
        if not isinstance(content, dict):
            yield Problem(f"conf/{file.name}: is not a list of settings such as `root: data`")
            continue
        for key in map(str, content):
            if key not in Settings.model_fields:
                yield Problem(f"conf/{file.name}: unknown setting {key}{suggest(key, Settings.model_fields)}")
        properties = content.get("spark")
        if isinstance(properties, str) and not (conf / "spark" / properties).is_file():
            yield Problem(f"conf/{file.name}: spark={properties!r} is not a file in conf/spark")


def _find_unread_files(conf: Path) -> Iterator[Problem]:
    """Yield the files in conf/ that look like settings or suites, but have another suffix or place."""
    for file in sorted(conf.glob("*.yaml")):
        yield Problem(f"conf/{file.name}: is not read; rename it to {file.stem}.yml", is_error=False)
    for file in sorted(path for path in conf.glob("expectations/**/*") if path.suffix in (".yml", ".yaml")):
        place = file.relative_to(conf).as_posix()
        yield Problem(f"conf/{place}: is not read; a suite is a file <layer>/<table>.json", is_error=False)


def _find_unread_declarations(project: Path) -> Iterator[Problem]:
    """Yield the files of the project that declare sources or tables, and that no module of `declarations` imports."""
    loaded = {Path(file).resolve() for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}
    for file in _list_code(project):
        if file.resolve() in loaded:
            continue
        try:
            is_declaring = _DECLARATION.search(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if is_declaring:
            yield Problem(
                f"{file.relative_to(project).as_posix()}: declares a source or table, but is not read; name its "
                "package in `declarations` of conf/base.yml",
                is_error=False,
            )


def _list_code(project: Path) -> Iterator[Path]:
    """Yield the Python files of the project's folder and of its packages, but not those of tests and environments."""
    yield from sorted(project.glob("*.py"))
    for folder in sorted(path for path in project.iterdir() if path.is_dir()):
        is_code = next(folder.glob("*.py"), None) is not None and folder.resolve() != _PLATFORM
        if is_code and not folder.name.startswith(".") and folder.name not in _OTHER_FOLDERS:
            yield from sorted(folder.rglob("*.py"))
