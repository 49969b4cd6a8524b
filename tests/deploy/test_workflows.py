"""GitHub's workflows, their checks, and the conda environment."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import programs, workflows
from tests.paths import PROJECT
from tests.shares import SHARES

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
FOLDER = PROJECT / ".github/workflows"
FILES = sorted(FOLDER.iterdir())


def load_workflow(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text("utf-8"))


def no_program(*_: object, **__: object) -> None:
    return None


def test_conda_installs_extras_that_exist() -> None:
    conda = yaml.safe_load((PROJECT / "environment.yml").read_text("utf-8"))
    *packages, pip = conda["dependencies"]
    assert packages == ["python=3.11", "openjdk=17", "pip"]
    constraint, editable = pip["pip"]
    assert constraint == "--constraint constraints.txt"
    extras = re.fullmatch(r"--editable \.\[([\w,]+)]", editable)
    assert extras
    assert {*extras[1].split(",")} <= {*PYPROJECT["project"]["optional-dependencies"]}


def test_conda_has_the_projects_python() -> None:
    oldest = re.match(r">=(\d+\.\d+)", PYPROJECT["project"]["requires-python"])
    assert oldest
    assert f"python={oldest[1]}" in yaml.safe_load((PROJECT / "environment.yml").read_text("utf-8"))["dependencies"]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest[1].replace('.', '')}"


def test_ci_runs_every_share_once() -> None:
    matrix = load_workflow("test.yml")["jobs"]["make"]["strategy"]["matrix"]
    assert matrix["target"] == ["check", "test"]
    assert matrix["include"] == [{"target": "test-share", "share": number} for number in range(len(SHARES))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_actions_are_pinned_to_commits(file: Path) -> None:
    uses = re.findall(r"uses: (.*)", file.read_text("utf-8"))
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


def test_jobs_have_the_least_permissions() -> None:
    assert load_workflow("test.yml")["permissions"] == {"contents": "read"}
    release = load_workflow("release.yml")
    assert release["permissions"] == {}
    assert {name: job["permissions"] for name, job in release["jobs"].items()} == {
        "build": {"contents": "read"},
        "publish": {"id-token": "write"},
        "release": {"contents": "write"},
    }
    assert release["jobs"]["publish"]["environment"]["name"] == "pypi"


@pytest.mark.parametrize(("in_ci", "status"), [("", 0), ("true", 1)])
def test_without_go_only_ci_fails(
    in_ci: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", in_ci)
    monkeypatch.setattr(programs, "ACTIONLINT_BUILT", tmp_path / "actionlint")
    monkeypatch.setattr(programs.shutil, "which", no_program)
    assert workflows.check() == status
    assert re.match(
        r"Workflows: not checked\. actionlint: the program actionlint is not on the PATH, .*install Go",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize("status", [0, 1])
def test_status_is_that_of_actionlint(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "actionlint"
    program.write_text(f"#!/bin/sh\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setattr(programs, "PATH", str(tmp_path))
    assert workflows.check() == status
