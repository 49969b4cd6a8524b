"""The scripts of the GPU's image: how Spark finds its devices, and how a container starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import PROJECT
from tests.programs import write_program

SCRIPTS = PROJECT / "deploy" / "gpu"


@pytest.mark.parametrize(
    ("smi", "code", "resource"),
    [
        ("printf '0\\n1\\n'", 0, {"name": "gpu", "addresses": ["0", "1"]}),
        ("echo 0", 0, {"name": "gpu", "addresses": ["0"]}),
        ("true", 1, None),
        ("echo 'NVIDIA-SMI has failed with 9'; exit 9", 1, None),
    ],
)
def test_spark_finds_the_machine_s_gpus(tmp_path: Path, smi: str, code: int, resource: object) -> None:
    write_program(tmp_path / "nvidia-smi", smi)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.run([SCRIPTS / "find_gpus.sh"], env=env, capture_output=True, text=True, check=False)
    assert (process.returncode, json.loads(process.stdout) if process.stdout else None) == (code, resource)


def test_a_pod_starts_by_spark_s_entrypoint(tmp_path: Path) -> None:
    shutil.copy(SCRIPTS / "entrypoint.sh", tmp_path)
    write_program(tmp_path / "spark-entrypoint.sh", 'echo "$SPARK_HOME" "$@"')
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def start(*words: str) -> str:
        command = [str(tmp_path / "entrypoint.sh"), *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()

    home, *rest = start("executor", "--more", "a b").split(" ", 1)
    assert Path(home, "bin", "spark-submit").exists()
    assert rest == ["executor --more a b"]
    assert start("echo", "lakehouse") == "lakehouse"
