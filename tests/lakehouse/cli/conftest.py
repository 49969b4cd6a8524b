"""Fixtures of the command line's tests: commands in this process, on a lake of the orders example."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from pyspark.sql import SparkSession

from lakehouse.cli import main as cli
from lakehouse.engine.spark import engine
from tests.lakes import TestLake


class Command:
    """The command line in this process, by default on a lake of the orders example."""

    def __init__(
        self,
        lake: TestLake,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        declarations: str = "tests.orders",
    ) -> None:
        self.lake, self.capsys, self.monkeypatch = lake, capsys, monkeypatch
        for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("LAKEHOUSE_ROOT", str(lake.root))
        monkeypatch.setenv("LAKEHOUSE_DECLARATIONS", json.dumps([declarations]))

    def __call__(self, *arguments: str, exit_code: int = 0) -> str:
        """Run a command. Returns what it printed: on success stdout alone, else stderr too."""
        self.monkeypatch.setattr(sys, "argv", ["lakehouse", *arguments])
        before = list_jvms()
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = self.capsys.readouterr()
        both = output.out + output.err
        assert (end.value.code or 0) == exit_code, both
        assert "Traceback" not in both
        assert "Warning:" not in both
        assert list_jvms() == before, "no JVM was started"
        return output.out if exit_code == 0 else both

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """Run a command with --json. Returns the document."""
        return json.loads(self(*arguments, "--json", exit_code=exit_code))

    def entries(self, *arguments: str) -> dict[str, Any]:
        """Run a command with --json. Returns its entries by table."""
        return {entry["table"]: entry for entry in self.json(*arguments)}


def list_jvms() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if "java" in child.name()}


@pytest.fixture
def lakehouse(
    shop: Callable[..., TestLake], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    return Command(shop(), monkeypatch, capsys)


@pytest.fixture
def session_starts(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> list[SparkSession]:
    """Have commands take the tests' session instead of their own. The list gets one entry for each start."""
    starts: list[SparkSession] = []

    @contextmanager
    def shared(*_: object) -> Iterator[SparkSession]:
        starts.append(spark)
        yield spark

    monkeypatch.setattr(engine, "spark_session", shared)
    return starts
