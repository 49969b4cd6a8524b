"""The command `check`, and `land` in a project without an example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.lakehouse.projects import make_project
from tests.paths import PROJECT

TABLES = """
from lakehouse import Merge, Rule, table

RULES = [Rule("days_are_real", "dya IS NOT NULL"), Rule("odd", "(id"), Rule("few", "count(id) < 10")]


@table("silver.items", columns={"id": "long", "day": "dat"}, key=("idd",), write=Merge(), rules=RULES, rows="raw.itmes")
def items(rows):
    return rows
"""


def run(*arguments: str) -> tuple[int, str]:
    """Run a command in a process. Returns the exit code and the output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    command = [sys.executable, "-m", "lakehouse.cli.main", *arguments]
    environment["PYTHONPATH"] = str(PROJECT)
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment, check=False)
    return result.returncode, result.stdout + result.stderr


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    files = {
        "shop_tables.py": TABLES,
        "conf/expectations/silver/items.json": json.dumps(
            {"expectations": [{"type": "expect_column_values_to_be_unique", "kwargs": {"column": "idd"}}]}
        ),
        "conf/expectations/silver/itmes.json": "{}",
    }
    root = make_project(tmp_path, files, declarations=["shop_sources", "shop_tables"], models={"a": "no_model"})
    code, output = run("--project", str(root), "check")
    place = "rule {} of silver.items: "
    assert code == 1
    assert [line for line in output.splitlines() if "column day has type" not in line] == [
        "error silver.items: column 'idd' is not declared",
        "error silver.items: input rows='raw.itmes' is not declared; did you mean raw.items?",
        f"error {place.format('days_are_real')}no column dya; did you mean day?",
        f"error {place.format('few')}the aggregate function count is not allowed, because a rule sees one row; "
        "use a suite",
        "error suite of silver.items: expect_column_values_to_be_unique: no column idd; did you mean id?",
        "error model a: there is no module no_model; correct `models` in conf/base.yml",
        "warning suite silver/itmes.json: no table has this name, so it is not used; did you mean silver.items?",
        f"warning {place.format('odd')}the parser of this check cannot read it (near 'id'); Spark will decide",
        "7 errors, 2 warnings.",
    ]
    assert "error silver.items: column day has type 'dat', which is none of Spark SQL's" in output


def test_warnings_alone_are_no_failure(tmp_path: Path) -> None:
    root = make_project(tmp_path, {"conf/prod.yaml": ""})
    (root / "data" / "landing" / "itmes").mkdir(parents=True)
    code, output = run("--project", str(root), "check", "--json")
    assert (code, json.loads(output)) == (
        0,
        [
            {"text": "conf/prod.yaml: is not read; rename it to prod.yml", "is_error": False},
            {"text": "landing/itmes: no source reads this", "is_error": False},
        ],
    )
    assert "check conf/prod.yaml: is not read; rename it to prod.yml\n" in run("--project", str(root), "plan")[1]


def test_land_says_what_it_needs(tmp_path: Path) -> None:
    code, output = run("--project", str(make_project(tmp_path, {})), "land")
    assert code == 2
    assert "No source was named. Run `lakehouse land SOURCE FILE...`; declared sources: raw.items." in output
