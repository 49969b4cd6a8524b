"""The public names of `lakehouse`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lakehouse

HEAVY = {"pyspark", "mlflow", "duckdb", "delta", "deltalake"}


def test_every_public_name_exists() -> None:
    assert {name for name in lakehouse.__all__ if getattr(lakehouse, name) is None} == set()
    assert sorted(lakehouse._MODULE_OF) == sorted(lakehouse.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tabel'"):
        lakehouse.tabel  # noqa: B018


def test_declaring_a_source_loads_no_engine() -> None:
    code = "import sys, lakehouse; lakehouse.source, lakehouse.Merge, lakehouse.Rule; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & {name.partition(".")[0] for name in process.stdout.split()} == set()
