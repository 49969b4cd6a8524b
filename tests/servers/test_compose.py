"""Docker compose parses the project's file."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from deploy import env, programs
from tests.paths import PROJECT
from tests.stack import skip_missing

COMPOSE_VERSION = "v5.6.0"
COMPOSE_FILE = PROJECT / "docker-compose.yml"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("complete", [True, False])
def test_docker_compose_accepts_the_file(tmp_path: Path, complete: bool) -> None:
    compose = find_docker_compose()
    env.write(tmp_path / ".env")
    file = tmp_path / ".env" if complete else env.EXAMPLE
    command = [*compose, "--file", COMPOSE_FILE, "--env-file", file, "--profile", "*", "config", "--quiet"]
    clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=clean)
    assert result.returncode == (0 if complete else 1), result.stderr
    assert complete or "run make env" in result.stderr


def find_docker_compose() -> list[str]:
    """Return the command: Docker's plugin, else the program, else a program built once from its source.

    The program needs no Docker engine.
    """
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], check=False, capture_output=True).returncode
    ):
        return ["docker", "compose"]
    built = programs.MINIO_BUILT.with_name(f"docker-compose-{COMPOSE_VERSION}")
    if program := shutil.which("docker-compose") or (str(built) if built.exists() else None):
        return [program]
    if (go := shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")) is None:
        skip_missing("docker compose is missing, and so is Go to build it: install either")
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        package = "github.com/docker/compose/v5/cmd"
        for command in (
            ["mod", "init", "built"],
            ["get", f"{package}@{COMPOSE_VERSION}"],
            ["build", "-o", "compose", package],
        ):
            subprocess.run([go, *command], cwd=folder, check=True, capture_output=True)
        os.replace(Path(folder, "compose"), built)
    return [str(built)]
