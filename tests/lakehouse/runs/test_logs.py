"""The log of a run, and errors that name the file."""

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
def test_query_errors_are_only_in_the_log(settings: Settings, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    file = start_log(settings, Run("one", ""))
    PySparkLogger.getLogger(f"{kind}QueryContextLogger").exception("no such column", errorClass="UNRESOLVED")
    assert "no such column" in file.read_text()
    assert capfd.readouterr().err == ""


def test_errors_name_the_log(settings: Settings) -> None:
    with pytest.raises(ModelError, match="no model") as expected, log_run(settings, Run("one", "")):
        raise ModelError("no model")
    assert expected.value.__notes__ == [f"The log is {settings.logs / 'one.log'}."]
    with pytest.raises(LakehouseError, match="KeyError: 'x'") as unexpected, log_run(settings, Run("two", "")):
        raise KeyError("x")
    assert unexpected.value.__notes__ == [f"The log is {settings.logs / 'two.log'}."]
    assert "Traceback" in (settings.logs / "two.log").read_text()


def test_a_name_forges_no_record(settings: Settings) -> None:
    file = start_log(settings, Run("one", ""))
    forged = "a.csv\n2026-01-01 00:00:00,000 INFO lakehouse: all is well\x1b[2J\u202e\udce9"
    logging.getLogger("lakehouse").warning("%s: cannot be read", forged)
    first, second = file.read_text("utf-8").splitlines()
    assert first.endswith(" WARNING lakehouse: a.csv")
    assert second == r"    2026-01-01 00:00:00,000 INFO lakehouse: all is well\x1b[2J\u202e\udce9: cannot be read"


def test_missing_java_names_its_package(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in ("sh", "bash"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}")
    make = shutil.which("make") or "make"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    with pytest.raises(SessionError, match="openjdk-17-jre-headless"), spark_session(settings):
        pass
    result = subprocess.run([make, "java"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "openjdk-17-jre-headless" in result.stdout
    assert '"$(brew --prefix openjdk@17)"' in result.stdout
