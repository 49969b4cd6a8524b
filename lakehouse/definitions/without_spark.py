"""Declarations where pyspark is not installed: their modules load, and their functions cannot be called.

Commands that only read a lake need the declarations, but no Spark.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from lakehouse.extras import build_missing_package_error

_PACKAGES = ("pyspark", "delta")


@contextmanager
def allow_missing_spark() -> Iterator[None]:
    """Let modules import the packages of Spark within the block, even if they are not installed.

    What they import is a placeholder then. Its use raises MissingExtraError. Other code finds no such package.
    """
    missing = tuple(package for package in _PACKAGES if find_spec(package) is None)
    if not missing:
        yield
        return
    finder = _PlaceholderFinder(missing)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in missing]:
            del sys.modules[name]


class _PlaceholderFinder(MetaPathFinder, Loader):
    """Finder of modules that consist of placeholders."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_missing = fullname.partition(".")[0] in self.packages
        return ModuleSpec(fullname, self, is_package=True) if is_missing else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _PlaceholderModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is: it has every name."""


class _PlaceholderModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(f"{self.__name__}.{name}")


class _Placeholder:
    """A name of a package that is not installed. It can be part of an annotation, but not be called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Placeholder(f"{self._name}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        raise build_missing_package_error(self._name.partition(".")[0])

    def __getitem__(self, key: Any) -> _Placeholder:
        return self

    def __or__(self, other: Any) -> _Placeholder:
        return self

    __ror__ = __or__
