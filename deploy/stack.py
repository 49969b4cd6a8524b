"""The servers without Docker: `python -m deploy.stack up|down|status`."""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from dotenv import dotenv_values
from filelock import FileLock

from deploy.env import EXAMPLE, PROJECT, find_weaknesses
from deploy.prepare import connect
from deploy.processes import Launch, find_process, is_free, log_path, start, stop
from deploy.programs import PATH, create_database_folder, find, postgres_account
from deploy.servers import POSTGRESQL, SERVERS, Server
from lakehouse.errors import LakehouseError, StackError, get_first_line

# Seconds for each server to become healthy.
WAIT_SECONDS = 120.0
# Servers of one machine need no proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Stack:
    """Servers that share a folder and the values of one .env."""

    folder: Path
    values: dict[str, str]

    def fill(self, server: Server, text: str) -> str:
        own = {"FOLDER": str(self.folder / server.name), "PROJECT": str(PROJECT)}
        return Template(text).substitute(self.values, **own)


def read_env(file: Path) -> dict[str, str]:
    """Return the values of an .env file.

    Raises:
        StackError: the file is missing, or lacks a value.
    """
    if not file.exists():
        raise StackError(f"{file}: the file is missing. Run make env.")
    values = {key: value for key, value in dotenv_values(file).items() if value}
    if missing := [key for key in dotenv_values(EXAMPLE) if key not in values]:
        raise StackError(f"{file}: has no value for {', '.join(missing)}. Read about them in {EXAMPLE.name}.")
    return values


def select_servers(names: str, with_needs: bool = False) -> list[Server]:
    """Return the servers of these names, in order of their start.

    Args:
        names: names with commas between; "spark" is all of Spark's servers.
        with_needs: add the servers that these need.
    """
    requested = names.split(",")
    groups = {server.name: {server.name, server.name.split("-")[0]} for server in SERVERS}
    if unknown := sorted(set(requested).difference(*groups.values())):
        allowed = dict.fromkeys(name.split("-")[0] for name in groups)
        raise StackError(f"{', '.join(unknown)}: no server has this name. Choose from {', '.join(allowed)}.")
    selected = [server for server in SERVERS if groups[server.name] & set(requested)]
    needs = {name for server in selected for name in server.needs} if with_needs else set()
    return [server for server in SERVERS if server in selected or server.name in needs]


def up(stack: Stack, servers: Sequence[Server], wait_seconds: float = WAIT_SECONDS) -> None:
    """Start the servers that do not run, and wait until all are healthy.

    Raises:
        StackError: a port is in use, a program is missing, a server did not come up.
    """
    fresh = [server for server in servers if not find_process(stack.folder, server.name)]
    for server in fresh:
        stop(stack.folder, server.name)  # children that outlived their server
    _check_ports(stack, fresh)
    for server in servers:
        for need in server.needs:
            _wait_for(stack, next(other for other in servers if other.name == need), wait_seconds)
        if server in fresh:
            start(stack.folder, server.name, _launch(stack, server))
    for server in servers:
        _wait_for(stack, server, wait_seconds)
        print(f"{server.name}: {'started' if server in fresh else 'runs already'}, {stack.fill(server, server.health)}")


def _check_ports(stack: Stack, servers: Iterable[Server]) -> None:
    ports = [(key, int(stack.values[key]), server.name) for server in servers for key in server.ports]
    problems = [
        f"{name}: port {port} is in use. Free it, or change {key}." for key, port, name in ports if not is_free(port)
    ]
    if problems:
        raise StackError("\n".join(problems))


def _launch(stack: Stack, server: Server) -> Launch:
    own = stack.folder / server.name
    account = postgres_account() if server is POSTGRESQL else {}
    if server is POSTGRESQL:
        create_database_folder(own, stack.values, account)
    name, *arguments = (stack.fill(server, part) for part in server.command)
    shared = {key: os.environ[key] for key in ("JAVA_HOME", "LANG", "TZ") if key in os.environ}
    variables = {key: stack.fill(server, text) for key, text in server.variables.items()}
    return Launch([find(name, own), *arguments], {"PATH": PATH, "HOME": str(own), **shared, **variables}, account)


def _wait_for(stack: Stack, server: Server, seconds: float) -> None:
    until, log = time.monotonic() + seconds, log_path(stack.folder, server.name)
    while trouble := _trouble(stack, server, prepare=True):
        if not find_process(stack.folder, server.name):
            raise StackError(f"{server.name}: ended while it started. Read its log: {log}.")
        if time.monotonic() > until:
            raise StackError(
                f"{server.name}: not healthy after {seconds:.0f} seconds ({trouble}). Read its log: {log}."
            )
        time.sleep(0.2)


def _trouble(stack: Stack, server: Server, prepare: bool = False) -> str:
    """Return the reason for which a server is not healthy; empty for a healthy one."""
    if not find_process(stack.folder, server.name):
        return "the process does not run"
    address = stack.fill(server, server.health)
    try:
        if server is POSTGRESQL:
            connect(stack.values).close()
        else:
            with _OPENER.open(address, timeout=5) as answer:
                if server.health_word not in answer.read().decode():
                    return f"the answer of {address} lacks {server.health_word}"
        if prepare and server.when_healthy:
            server.when_healthy(stack.values)
    except Exception as error:  # every failure means that the server is not healthy yet
        return get_first_line(error)
    return ""


def down(folder: Path, servers: Sequence[Server]) -> None:
    """Stop the servers in reverse order of their start."""
    for server in reversed(servers):
        print(f"{server.name}: {'stopped' if stop(folder, server.name, server.stop) else 'did not run'}")


def status(stack: Stack, servers: Sequence[Server]) -> int:
    """Print the state of each server; return 1 if one is not healthy."""
    troubles = {server.name: _trouble(stack, server) for server in servers}
    for name, trouble in troubles.items():
        print(f"{name}: {trouble or 'healthy'}")
    return int(any(troubles.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--env-file", type=Path, default=PROJECT / ".env")
    parser.add_argument("--data", type=Path, default=PROJECT / "data" / "stack")
    parser.add_argument("--services", default="minio,postgres,mlflow,spark")
    options = parser.parse_args(arguments)
    folder = options.data.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock"):
            if options.command == "down":
                down(folder, select_servers(options.services))
                return 0
            stack = Stack(folder, read_env(options.env_file))
            for problem in find_weaknesses(options.env_file):
                print(problem, file=sys.stderr)
            if options.command == "status":
                return status(stack, select_servers(options.services))
            up(stack, select_servers(options.services, with_needs=True))
    except LakehouseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
