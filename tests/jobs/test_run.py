"""Jobs are commands with a default selection, and end with the command's exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tests.paths import PROJECT


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a job on an empty lake."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    return clean | {"LAKEHOUSE_ROOT": str(tmp_path), "PYTHONPATH": str(PROJECT)}


def run_script(environment: dict[str, str], job: str, *arguments: str, exit_code: int = 0) -> str:
    """Run a job outside of the project's folder. Returns its output."""
    command = [sys.executable, str(PROJECT / "jobs" / f"{job}.py"), *arguments]
    process = subprocess.run(
        command, cwd=environment["LAKEHOUSE_ROOT"], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == exit_code, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout + process.stderr


@pytest.mark.parametrize(
    ("job", "arguments", "counts"),
    [
        ("bronze", (), "5 unchanged in"),
        ("silver", (), "5 blocked in"),
        ("daily", (), "5 unchanged, 8 blocked in"),
        ("bronze", ("--select", "gold"), "3 blocked in"),
        ("gold", ("-sbronze.flights", "--select=silver.flights"), "1 unchanged, 1 blocked in"),
    ],
)
def test_a_job_runs_its_layer_or_selection(
    environment: dict[str, str], job: str, arguments: tuple[str, ...], counts: str
) -> None:
    assert counts in run_script(environment, job, *arguments)


def test_a_failed_table_exits_with_1(environment: dict[str, str], tmp_path: Path) -> None:
    write_deltalake(tmp_path / "lake" / "silver" / "flights", pa.table({"old": [1]}))
    output = run_script(environment, "silver", exit_code=1)
    assert "columns break" in output
    assert "`lakehouse run` resumes" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--select", "nothing"), "DeclarationError: 'nothing' names no table"),
        (("--from", "2013-01-01"), "DeclarationError: A range needs both --from and --to"),
        (("--from", "soon"), "soon"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_a_mistake_exits_with_2(environment: dict[str, str], arguments: tuple[str, ...], message: str) -> None:
    assert message in run_script(environment, "gold", *arguments, exit_code=2)


def test_a_command_job_takes_its_arguments(environment: dict[str, str]) -> None:
    assert "--retrain" in run_script(environment, "monitor", "--help")
    assert "ModelError" in run_script(environment, "score", "nothing", exit_code=2)
