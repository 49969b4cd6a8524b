"""The example project as a whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.paths import PROJECT


def test_the_example_has_no_problems(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from lakehouse import api, settings\n"
        "import lakehouse.cli.main\n"
        "assert 'sqlglot' not in sys.modules\n"
        "print(api.check_project(settings.load()))\n"
        "print(sorted({'mlflow', 'sklearn', 'great_expectations'} & sys.modules.keys()))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}
    environment |= {"LAKEHOUSE_ROOT": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment, check=True)
    assert result.stdout == "[]\n[]\n"
