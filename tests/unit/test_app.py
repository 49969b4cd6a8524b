"""What commands and jobs share: the log of a run, and errors that name it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.logger import PySparkLogger

from lakehouse.app import log_to, logged
from lakehouse.errors import LakehouseError, ModelError
from lakehouse.ledger import Run
from lakehouse.settings import Settings, load


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    before = logging.root.handlers[:]
    yield load(root=tmp_path)
    logging.root.handlers[:] = before


@pytest.mark.parametrize("kind", ["SQL", "DataFrame"])
def test_spark_tells_of_a_querys_error_in_the_log_alone(
    settings: Settings, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    file = log_to(settings, Run("one", ""))
    PySparkLogger.getLogger(f"{kind}QueryContextLogger").exception("no such column", errorClass="UNRESOLVED")
    assert "no such column" in file.read_text()
    assert capfd.readouterr().err == ""


def test_an_error_names_the_log_and_one_that_nobody_expected_is_kept_in_it(settings: Settings) -> None:
    with pytest.raises(ModelError, match="no model") as told, logged(settings, Run("one", "")):
        raise ModelError("no model")
    assert told.value.__notes__ == [f"The log is {settings.logs / 'one.log'}."]
    with pytest.raises(LakehouseError, match="KeyError: 'x'") as told_too, logged(settings, Run("two", "")):
        raise KeyError("x")
    assert told_too.value.__notes__ == [f"The log is {settings.logs / 'two.log'}."]
    assert "Traceback" in (settings.logs / "two.log").read_text()
