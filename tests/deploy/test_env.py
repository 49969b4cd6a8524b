"""The file .env: it has the values for docker compose and `make stack`, and its faults are reported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

import pytest
from dotenv import dotenv_values

from deploy import env, prepare, programs, stack
from deploy.servers import SERVERS
from deploy.stack import read_env
from lakehouse.errors import StackError
from tests.paths import PROJECT

COMPOSE_FILE = PROJECT / "docker-compose.yml"
SECRETS = [key for key, value in dotenv_values(env.EXAMPLE, interpolate=False).items() if not value]


def test_example_has_keys_of_both() -> None:
    by_compose = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    required = set(re.findall(r"\$\{(\w+):\?run make env}", COMPOSE_FILE.read_text()))
    assert by_compose == required
    by_stack = {key for server in SERVERS for key in server.ports}
    for server in SERVERS:
        for text in (*server.command, server.health, *server.variables.values()):
            by_stack |= {*Template(text).get_identifiers()} - {"FOLDER", "PROJECT"}
    for module in (prepare, programs, stack):
        by_stack |= set(re.findall(r'\["([A-Z]+_?[A-Z_]*)"\]', Path(str(module.__file__)).read_text()))
    assert {*dotenv_values(env.EXAMPLE)} == by_compose | by_stack | {"COMPOSE_PROFILES", "SERVING_API_KEY"}


def test_only_secrets_lack_values_in_example() -> None:
    passwords = {"AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD"}
    assert {*SECRETS} == passwords | {"MLFLOW_FLASK_SERVER_SECRET_KEY", "JUPYTER_TOKEN", "SERVING_API_KEY"}
    assert not re.search(r":-|:=", COMPOSE_FILE.read_text()), "a default in docker-compose.yml"


def test_make_env_writes_once_for_owner_only(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    for file in ("Makefile", ".env.example", "deploy/env.py", "deploy/__init__.py"):
        shutil.copy(PROJECT / file, tmp_path / file)

    def make() -> str:
        command = ["make", "env", f"PYTHON={sys.executable}"]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    umask = os.umask(0)
    try:
        make()
    finally:
        os.umask(umask)
    written = tmp_path / ".env"
    assert written.stat().st_mode & 0o777 == 0o600
    values = read_env(written)
    assert len({values[key] for key in SECRETS}) == len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{40}", values[key]) for key in SECRETS)
    assert values["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9000"
    assert values["PGPASSWORD"] == values["POSTGRES_PASSWORD"]

    written.write_text("mine")
    assert "stays unchanged" in make()
    assert written.read_text() == "mine"


def test_missing_env_values_are_named(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="Run make env"):
        read_env(tmp_path / ".env")
    with pytest.raises(
        StackError, match="has no value for AWS_SECRET_ACCESS_KEY, POSTGRES_PASSWORD, PGPASSWORD, MLFLOW"
    ):
        read_env(env.EXAMPLE)


def test_readable_env_and_weak_secrets_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ".env"
    env.write(file)
    assert env.find_weaknesses(file) == []
    values = read_env(file)
    for weak in ("minioadmin", "passwordpassword", "1111111111111111111111"):
        file.write_text("".join(f"{key}='{value}'\n" for key, value in {**values, "JUPYTER_TOKEN": weak}.items()))
        (problem,) = env.find_weaknesses(file)
        assert problem.startswith(f"{file}: JUPYTER_TOKEN can be guessed. ")
        assert weak not in problem
    shared = {**values, "JUPYTER_TOKEN": values["SERVING_API_KEY"]}
    file.write_text("".join(f"{key}={value}\n" for key, value in shared.items()))
    file.chmod(0o640)
    expected = [
        f"{file}: other accounts can use it (mode 640). Run chmod 600 {file}.",
        f"{file}: JUPYTER_TOKEN, SERVING_API_KEY have the value of another key. Give each a value of its own.",
    ]
    assert env.find_weaknesses(file) == expected
    arguments = ["status", "--data", str(tmp_path / "stack"), "--env-file", str(file), "--services", "minio"]
    assert stack.main(arguments) == 1
    assert capsys.readouterr().err.splitlines() == expected
