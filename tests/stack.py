"""Servers of `make stack` for the tests."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import boto3
import psutil
import pytest
from dotenv import dotenv_values

from deploy import env, processes, programs
from deploy.servers import SERVERS
from deploy.stack import read_env
from lakehouse.errors import StackError
from tests.paths import PROJECT

SECRETS = [key for key, value in dotenv_values(env.EXAMPLE, interpolate=False).items() if not value]

PROGRAMS = Path(sys.executable).parent
SETTINGS = ("LAKEHOUSE_", "AWS_", "MLFLOW_", "SPARK_", "PYSPARK_")


def environment_without_settings() -> dict[str, str]:
    """Return this process's environment without settings of the project, the servers and Spark."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}


def run_command(variables: Mapping[str, str], *command: str) -> str:
    """Run a program of the virtual environment, which must succeed, and return its output."""
    env = {**variables, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    result = subprocess.run(command, cwd=PROJECT, env=env, check=False, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout + result.stderr


def listening_addresses(process: psutil.Process) -> set[tuple[str, int]]:
    """Return the addresses and ports at which a process can be reached, by TCP or UDP."""
    try:
        connections = process.net_connections("inet")
    except psutil.NoSuchProcess:
        return set()
    listening = [entry for entry in connections if entry.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)]
    return {(entry.laddr[0].removeprefix("::ffff:"), entry.laddr[1]) for entry in listening if entry.laddr}


def skip_missing(requirement: str) -> NoReturn:
    """Skip a test on a machine that lacks a requirement. In CI the test fails instead."""
    if os.environ.get("CI"):
        pytest.fail(requirement)
    pytest.skip(requirement)


def find_program(name: str, folder: Path | None = None) -> str:
    """Return a server's program. A missing program is built.

    Args:
        name: the server's name.
        folder: the server's own folder.
    """
    try:
        return programs.find(name, folder or Path())
    except StackError as error:
        skip_missing(str(error))


@dataclass(frozen=True)
class RunningServers:
    """Servers that were started with the values of one .env."""

    env_file: Path
    folder: Path
    values: dict[str, str]
    services: str

    def command(self, name: str, exit_code: int = 0) -> str:
        """Run a command of `deploy.stack`, which must end with the exit code, and return its output."""
        arguments = [
            sys.executable,
            "-m",
            "deploy.stack",
            name,
            "--env-file",
            self.env_file,
            "--data",
            self.folder,
            "--services",
            self.services,
        ]
        # No server may inherit this.
        variables = {**os.environ, "CANARY": "sings"}
        result = subprocess.run(arguments, cwd=PROJECT, env=variables, check=False, capture_output=True, text=True)
        if result.returncode != exit_code:
            logs = [f"{log.name}:\n{log.read_text()[-2000:]}" for log in self.folder.glob("logs/*")]
            pytest.fail("\n".join([result.stdout, result.stderr, *logs]))
        return result.stdout

    def processes(self) -> dict[str, list[psutil.Process]]:
        return {server.name: processes.find_processes(self.folder, server.name) for server in SERVERS}

    def read_process_data(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Yield each server's name with the "cmdline" or "environ" of each of its processes."""
        for name, members in self.processes().items():
            for member in members:
                with suppress(OSError):  # the process has ended
                    yield name, Path(f"/proc/{member.pid}/{kind}").read_bytes()

    @property
    def storage_options(self) -> dict[str, str]:
        """Return the address and keys of MinIO for delta-rs."""
        return {k.lower(): v for k, v in self.values.items() if k.startswith("AWS_")} | {"allow_http": "true"}

    def get(self, url: str, **headers: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:  # noqa: S310
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def s3(self, secret: str) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.values["AWS_ENDPOINT_URL"],
            region_name=self.values["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.values["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=secret,
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _choose_ports(values: dict[str, str | None]) -> dict[str, int]:
    """Choose a free port for each key. All ports differ."""
    with ExitStack() as stack:
        sockets = {key: stack.enter_context(socket.socket()) for key in values if key.endswith("_PORT")}
        for server in sockets.values():
            server.bind(("127.0.0.1", 0))
        return {key: server.getsockname()[1] for key, server in sockets.items()}


@contextmanager
def running_servers(services: str = "minio,postgres,mlflow,spark") -> Iterator[RunningServers]:
    """Run the servers on free ports, in a folder of their own."""
    # PostgreSQL's user cannot enter pytest's own folder.
    folder = Path(tempfile.mkdtemp(prefix="lakehouse-stack-"))
    for name in ("minio", "postgres"):
        find_program(name, folder)
    folder.chmod(0o711)
    env_file = folder / ".env"
    env.write(env_file)
    text = env_file.read_text()
    for key, port in _choose_ports(dotenv_values(env_file)).items():
        text = re.sub(rf"(?m)^{key}=.*$", f"{key}={port}", text)
    env_file.write_text(text)
    servers = RunningServers(env_file, folder / "stack", read_env(env_file), services)
    try:
        servers.command("up")
        yield servers
    finally:
        servers.command("down")
        shutil.rmtree(folder)
