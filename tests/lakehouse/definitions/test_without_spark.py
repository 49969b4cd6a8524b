"""Declarations load where pyspark is not installed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from lakehouse import extras
from lakehouse.definitions import without_spark
from lakehouse.definitions.without_spark import allow_missing_spark
from lakehouse.errors import MissingExtraError

MODULE = """
from absent_spark.sql import DataFrame, Window
from absent_spark.sql import functions as F

def double(rows: DataFrame | None, kind: F.Kind[int] = None):
    return F.col("a") * 2
"""


@pytest.fixture(autouse=True)
def _without_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let a package that is not installed stand for pyspark."""
    monkeypatch.setattr(without_spark, "_PACKAGES", ("absent_spark",))
    monkeypatch.setitem(extras._EXTRA_OF, "absent_spark", "spark")
    monkeypatch.syspath_prepend(tmp_path)


def write(folder: Path, name: str, code: str) -> str:
    (folder / f"{name}.py").write_text(code)
    return name


def test_functions_load_and_name_the_extra_when_called(tmp_path: Path) -> None:
    name = write(tmp_path, "doubling", MODULE)
    with allow_missing_spark():
        module = importlib.import_module(name)
    with pytest.raises(
        MissingExtraError, match=r"absent_spark is not installed. Run pip install 'lakehouse-medallion\[spark\]'"
    ):
        module.double(None)


def test_a_call_during_the_import_names_the_extra(tmp_path: Path) -> None:
    name = write(tmp_path, "windowed", MODULE + "\nNEWEST = Window.partitionBy('key')\n")
    with pytest.raises(MissingExtraError, match=r"lakehouse-medallion\[spark\]"), allow_missing_spark():
        importlib.import_module(name)


def test_other_code_finds_no_package() -> None:
    with allow_missing_spark():
        importlib.import_module("absent_spark.sql.types")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("another_absent_package")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("absent_spark")
