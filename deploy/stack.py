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

from deploy.env import EXAMPLE, PROJECT
from deploy.prepare import connect
from deploy.processes import Launch, alive, is_free, log_of, start, stop
from deploy.programs import PATH, find, make_database, postgres_account
from deploy.servers import POSTGRESQL, SERVERS, Server
from lakehouse.errors import LakehouseError, StackError, get_first_line

# How long each server may take until it is well.
WAIT_SECONDS = 120.0
# No proxy stands between servers of one machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Stack:
    """Servers that share a folder and the values of one .env."""

    folder: Path
    values: dict[str, str]

    def filled(self, server: Server, text: str) -> str:
        own = {"FOLDER": str(self.folder / server.name), "PROJECT": str(PROJECT)}
        return Template(text).substitute(self.values, **own)


def read_env(file: Path) -> dict[str, str]:
    """The values of an .env file.

    Raises:
        StackError: the file is not there, or lacks a value.
    """
    if not file.exists():
        raise StackError(f"{file} is missing: run make env.")
    values = {key: value for key, value in dotenv_values(file).items() if value}
    if missing := [key for key in dotenv_values(EXAMPLE) if key not in values]:
        raise StackError(f"{file} has no value for {', '.join(missing)}; {EXAMPLE.name} says what they are.")
    return values


def chosen(names: str, with_needs: bool = False) -> list[Server]:
    """The servers named, "spark" for all of Spark's; on demand with those that they need."""
    wanted = names.split(",")
    groups = {server.name: {server.name, server.name.split("-")[0]} for server in SERVERS}
    if unknown := sorted(set(wanted).difference(*groups.values())):
        allowed = dict.fromkeys(name.split("-")[0] for name in groups)
        raise StackError(f"No server is named {', '.join(unknown)}; there are {', '.join(allowed)}.")
    named = [server for server in SERVERS if groups[server.name] & set(wanted)]
    needed = {name for server in named for name in server.needs} if with_needs else set()
    return [server for server in SERVERS if server in named or server.name in needed]


def up(stack: Stack, servers: Sequence[Server], wait_seconds: float = WAIT_SECONDS) -> None:
    """Start what does not run yet, and wait until all is well.

    Raises:
        StackError: a port is taken, a program is missing, a server did not come up.
    """
    fresh = [server for server in servers if not alive(stack.folder, server.name)]
    for server in fresh:
        stop(stack.folder, server.name)  # what a server that ended left behind
    _refuse_taken(stack, fresh)
    for server in servers:
        for needed in server.needs:
            _await(stack, next(one for one in servers if one.name == needed), wait_seconds)
        if server in fresh:
            start(stack.folder, server.name, _launch(stack, server))
    for server in servers:
        _await(stack, server, wait_seconds)
        print(
            f"{server.name}: {'started' if server in fresh else 'runs already'}, {stack.filled(server, server.health)}"
        )


def _refuse_taken(stack: Stack, servers: Iterable[Server]) -> None:
    ports = [(key, int(stack.values[key]), server.name) for server in servers for key in server.ports]
    taken = [
        f"Port {port} for {name} is taken: free it, or change {key}." for key, port, name in ports if not is_free(port)
    ]
    if taken:
        raise StackError("\n".join(taken))


def _launch(stack: Stack, server: Server) -> Launch:
    own = stack.folder / server.name
    account = postgres_account() if server is POSTGRESQL else {}
    if server is POSTGRESQL:
        make_database(own, stack.values, account)
    name, *arguments = (stack.filled(server, part) for part in server.command)
    shared = {key: os.environ[key] for key in ("JAVA_HOME", "LANG", "TZ") if key in os.environ}
    told = {key: stack.filled(server, text) for key, text in server.variables.items()}
    return Launch([find(name, own), *arguments], {"PATH": PATH, "HOME": str(own), **shared, **told}, account)


def _await(stack: Stack, server: Server, seconds: float) -> None:
    until, log = time.monotonic() + seconds, log_of(stack.folder, server.name)
    while trouble := _trouble(stack, server, prepare=True):
        if not alive(stack.folder, server.name):
            raise StackError(f"{server.name} ended while it started; its log is {log}.")
        if time.monotonic() > until:
            raise StackError(f"{server.name} did not come up in {seconds:.0f} seconds ({trouble}); its log is {log}.")
        time.sleep(0.2)


def _trouble(stack: Stack, server: Server, prepare: bool = False) -> str:
    """Why a server is not well; empty if it is."""
    if not alive(stack.folder, server.name):
        return "it does not run"
    address = stack.filled(server, server.health)
    try:
        if server is POSTGRESQL:
            connect(stack.values).close()
        else:
            with _OPENER.open(address, timeout=5) as answer:
                if server.says not in answer.read().decode():
                    return f"{address} does not say {server.says}"
        if prepare and server.once_well:
            server.once_well(stack.values)
    except Exception as error:  # whatever it is: not well yet
        return get_first_line(error)
    return ""


def down(folder: Path, servers: Sequence[Server]) -> None:
    """Stop what `up` started, the last first."""
    for server in reversed(servers):
        print(f"{server.name}: {'stopped' if stop(folder, server.name, server.stop) else 'did not run'}")


def status(stack: Stack, servers: Sequence[Server]) -> int:
    """Say how the servers are; 1 where one is not well."""
    troubles = {server.name: _trouble(stack, server) for server in servers}
    for name, trouble in troubles.items():
        print(f"{name}: {trouble or 'well'}")
    return int(any(troubles.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--env-file", type=Path, default=PROJECT / ".env")
    parser.add_argument("--data", type=Path, default=PROJECT / "data" / "stack")
    parser.add_argument("--services", default="minio,postgres,mlflow,spark")
    given = parser.parse_args(arguments)
    folder = given.data.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock"):
            if given.command == "down":
                down(folder, chosen(given.services))
                return 0
            stack = Stack(folder, read_env(given.env_file))
            if given.command == "status":
                return status(stack, chosen(given.services))
            up(stack, chosen(given.services, with_needs=True))
    except LakehouseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
