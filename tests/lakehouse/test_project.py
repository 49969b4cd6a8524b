"""Commands and jobs find their project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse import settings
from lakehouse.engine.spark.session import LOCAL_FILES_JAR, read_properties
from lakehouse.errors import SettingsError
from lakehouse.project import find_root
from tests.paths import CONF, PROJECT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a project with one source in a temporary folder, with folders below it."""
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "shop"
    (root / "conf" / "spark").mkdir(parents=True)
    (root / "reports" / "daily").mkdir(parents=True)
    (root / "conf" / "base.yml").write_text("root: data\nspark: local.conf\ndeclarations: [shop_sources]\n")
    (root / "conf" / "local.yml").touch()
    (root / "conf" / "spark" / "local.conf").touch()
    (root / "shop_sources.py").write_text(
        "from lakehouse.definitions.sources import source\n"
        "items = source('raw.items', landing='items', columns=('id',))\n"
    )
    return root


def test_the_nearest_folder_above_is_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_root(project / "reports" / "daily") == project
    monkeypatch.chdir(project / "reports")
    assert find_root() == project
    loaded = settings.load()
    files = [CONF / "spark" / "local.conf", project / "conf" / "spark" / "local.conf"]
    assert (loaded.root, loaded.find_spark_files("local.conf")) == (project / "data", files)


def test_the_variable_overrides_the_working_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("LAKEHOUSE_PROJECT", str(PROJECT))
    assert find_root() == settings.load().project == PROJECT


def test_a_missing_project_is_named(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"neither this folder nor one above it has conf/base.yml.*--project"):
        find_root(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_PROJECT", str(tmp_path))
    with pytest.raises(SettingsError, match=rf"LAKEHOUSE_PROJECT={tmp_path}: .* has no conf/base.yml"):
        find_root(project)


@pytest.mark.parametrize("options", [[], ["--project", "{project}"]], ids=["from a folder below", "by its option"])
def test_a_command_works_on_its_project(project: Path, tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path if options else project / "reports"
    command = [
        sys.executable,
        "-m",
        "lakehouse.cli.main",
        *(option.format(project=project) for option in options),
        "plan",
        "--json",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    process = subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert '"raw.items"' in process.stdout


def test_help_needs_no_project(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lakehouse.cli.main", "run", "--help"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    process = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "Bring tables up to date" in process.stdout


def test_spark_properties_have_absolute_paths(project: Path) -> None:
    (project / "conf" / "minio.yml").write_text("spark: minio.conf\n")
    (project / "conf" / "spark" / "minio.conf").write_text("spark.driver.memory 7g\n")
    command = [sys.executable, "-m", "lakehouse.cli.main", "spark-conf", "--profile", "minio"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    environment["PYTHONPATH"] = str(PROJECT)
    process = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    file = Path(process.stdout.strip())
    assert (process.returncode, file) == (0, project / "data" / "logs" / "spark-minio.conf"), process.stderr
    properties = read_properties(file)
    assert properties["spark.driver.memory"] == "7g"
    assert properties["spark.jars"] == str(LOCAL_FILES_JAR.with_name("conditional-put-logstore.jar"))
    assert (
        f"-Dlog4j2.configurationFile={(CONF / 'spark' / 'log4j2.properties').as_uri()}"
        in (properties["spark.driver.extraJavaOptions"])
    )
