"""The recipes of docs/schedules.md."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse.cli.tables import EXIT_REJECTED
from tests.paths import PROJECT
from tests.stack import skip_missing

UNITS = sorted((PROJECT / "deploy/systemd").iterdir())
DAG = PROJECT / "deploy/airflow/lakehouse_daily.py"
PAGE = (PROJECT / "docs/schedules.md").read_text("utf-8")
CRONTAB = re.findall(r"```cron\n(.*?)```", PAGE, re.DOTALL)[0].splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder like /srv/lakehouse. Its command prints its words and variables, and ends with `status`."""
    program = tmp_path / ".venv/bin/lakehouse"
    program.parent.mkdir(parents=True)
    (tmp_path / "data").mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\nprint(sys.argv[1:], sorted(os.environ))\n"
        "sys.exit(int(open('status').read()))\n"
    )
    program.chmod(0o755)
    return tmp_path


def test_systemd_accepts_the_units(project: Path) -> None:
    if (analyze := shutil.which("systemd-analyze")) is None:
        skip_missing("systemd-analyze is missing (Debian, Ubuntu: apt-get install systemd)")
    units = project / "units"
    units.mkdir()
    for unit in UNITS:
        text = unit.read_text("utf-8").replace("/srv/lakehouse", str(project))
        (units / unit.name).write_text(text.replace("/usr/bin/logger", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units.iterdir()],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if str(units) in line]) == (0, []), done.stderr


def test_every_recipe_reports_rejected_data() -> None:
    recipes = [CRONTAB[-1], DAG.read_text("utf-8"), *(unit.read_text("utf-8") for unit in UNITS)]
    commands = [line for recipe in recipes for line in recipe.splitlines() if "bin/lakehouse --project" in line]
    assert len(commands) == 3
    blocks = re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL)
    one_layer = re.findall(r"`(lakehouse run [^`]*--select[^`]*)`", PAGE)
    commands += [line for text in (*blocks, *one_layer) for line in text.splitlines() if "lakehouse run" in line]
    assert len(commands) == 6
    assert [line for line in commands if " run --strict" not in line] == []
    assert f"| {EXIT_REJECTED} | With `--strict`: files are rejected" in PAGE


@pytest.mark.parametrize("status", [0, 1, 2, 3])
def test_the_crontab_line_reports_a_failure(project: Path, status: int) -> None:
    (project / "status").write_text(str(status))
    command = CRONTAB[-1].split(" ", 5)[5].replace("/srv/lakehouse", str(project))
    done = subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True)
    expected = f"lakehouse run: exit status {status}. Read {project}/data/cron.log.\n" if status else ""
    assert (done.stdout, done.stderr) == (expected, "")
    variables = "['HOME', 'LAKEHOUSE_LOCK_WAIT_SECONDS', 'PATH']"
    words, names = (project / "data/cron.log").read_text().replace("'LC_CTYPE', ", "").strip().split("] ", 1)
    assert (words + "]", names) == (f"['--project', '{project}', 'run', '--strict']", variables)
    assert "%" not in CRONTAB[-1]


def test_the_real_command_starts_without_variables(tmp_path: Path) -> None:
    lakehouse = [sys.executable, "-m", "lakehouse.cli.main", "--project", PROJECT, "status"]
    variables = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LAKEHOUSE_ROOT": str(tmp_path / "data")}
    variables["PYTHONPATH"] = str(PROJECT)
    done = subprocess.run(lakehouse, cwd=tmp_path, check=False, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    assert "silver.flights" in done.stdout


def test_the_dag_calls_the_command_once() -> None:
    tree = ast.parse(DAG.read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (operator,) = [call for call in calls if getattr(call.func, "id", "") == "BashOperator"]
    arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in operator.keywords}
    assert arguments["bash_command"] == "f'{PROJECT}/.venv/bin/lakehouse --project {PROJECT} run --strict'"
    assert (arguments["append_env"], arguments["skip_on_exit_code"]) == ("True", "None")
    assert "from airflow.sdk import DAG" in ast.unparse(tree)
