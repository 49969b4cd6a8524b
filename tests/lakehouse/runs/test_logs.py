"""What commands and jobs share: the log of a run, and errors that name it."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.logger import PySparkLogger

from lakehouse.deltalog.commit_record import Run
from lakehouse.engine.spark.session import spark_session
from lakehouse.errors import LakehouseError, ModelError, SessionError
from lakehouse.runs.logs import log_run, start_log
from lakehouse.settings import Settings, load
from tests.paths import PROJECT


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    before = logging.root.handlers[:]
    yield load(root=tmp_path)
    logging.root.handlers[:] = before


@pytest.mark.parametrize("kind", ["SQL", "DataFrame"])
def test_spark_tells_of_a_querys_error_in_the_log_alone(
    settings: Settings, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    file = start_log(settings, Run("one", ""))
    PySparkLogger.getLogger(f"{kind}QueryContextLogger").exception("no such column", errorClass="UNRESOLVED")
    assert "no such column" in file.read_text()
    assert capfd.readouterr().err == ""


def test_an_error_names_the_log_and_one_that_nobody_expected_is_kept_in_it(settings: Settings) -> None:
    with pytest.raises(ModelError, match="no model") as told, log_run(settings, Run("one", "")):
        raise ModelError("no model")
    assert told.value.__notes__ == [f"The log is {settings.logs / 'one.log'}."]
    with pytest.raises(LakehouseError, match="KeyError: 'x'") as told_too, log_run(settings, Run("two", "")):
        raise KeyError("x")
    assert told_too.value.__notes__ == [f"The log is {settings.logs / 'two.log'}."]
    assert "Traceback" in (settings.logs / "two.log").read_text()


def test_without_java_both_the_command_and_make_say_how_to_get_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for tool in ("sh", "bash"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}")
    make = shutil.which("make") or "make"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    with pytest.raises(SessionError, match="openjdk-17-jre-headless"), spark_session(settings):
        pass
    said = subprocess.run([make, "java"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert "openjdk-17-jre-headless" in said.stdout
    assert '"$(brew --prefix openjdk@17)"' in said.stdout
