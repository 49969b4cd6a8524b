"""The servers: docker compose and `make stack` say the same, .env has what both read, processes are started and stopped."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import psutil
import pytest
import yaml
from dotenv import dotenv_values

from deploy import env, prepare, processes, programs, stack
from deploy.servers import MINIO, POSTGRES, POSTGRESQL, S3, SERVERS, Server
from deploy.stack import Stack, chosen, read_env, up
from lakehouse.errors import StackError
from tests.paths import PROJECT

COMPOSE_FILE = PROJECT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
# Where an image keeps what is in the server's own folder otherwise.
INSIDE = {"minio": "/data", "spark-worker-1": "/work", "spark-worker-2": "/work"}
SECRETS = [key for key, value in dotenv_values(env.EXAMPLE, interpolate=False).items() if not value]


@pytest.fixture
def made(tmp_path: Path) -> Stack:
    env.write(tmp_path / ".env")
    return Stack(tmp_path / "stack", read_env(tmp_path / ".env"))


def filled(text: str, made: Stack) -> str:
    return re.sub(r"\$\{(\w+)(:\?run make env)?}", lambda key: made.values[key[1]], text)


def as_process(service: str, text: str, made: Stack) -> str:
    """What compose says to a container, said to a process of this machine."""
    hosts = "|".join(["0.0.0.0", *SERVICES])  # noqa: S104
    local = re.sub(rf"(?<![\w.-])({hosts})(?=:\d)|^({hosts})$", "127.0.0.1", filled(text, made))
    if local == INSIDE.get(service):
        return str(made.folder / service)
    return re.sub("^/lakehouse/", f"{PROJECT}/", local)


def words(command: list[str]) -> list[object]:
    """A command's words; the members of a list in no order."""
    return [set(word.split(",")) if "," in word else word for word in command]


# --- compose and stack --------------------------------------------------------------------------------------------------


def test_both_have_the_same_servers() -> None:
    assert {*SERVICES} == {server.name for server in SERVERS} | {"prepare", "jupyter"}
    assert {service: said["profiles"] for service, said in SERVICES.items()} == {
        **{name: ["core"] for name in ("minio", "postgres", "prepare", "mlflow")},
        **{name: ["cluster"] for name in ("spark-master", "spark-worker-1", "spark-worker-2")},
        "jupyter": ["notebooks"],
    }


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_a_server_is_the_same_in_both(server: Server, made: Stack) -> None:
    said = SERVICES[server.name]
    program, *arguments = shlex.split(filled(said["command"], made))
    command = [program, *(as_process(server.name, word, made) for word in arguments)]
    native = [made.filled(server, word) for word in server.command]
    if server is POSTGRESQL:
        # The image has its folder, and listens for its network.
        data = str(made.folder / "postgres")
        for own in ("-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="):
            native.remove(own)
    assert words(command) == words(native)
    assert said["ports"] == [f"127.0.0.1:${{{key}}}:${{{key}}}" for key in server.ports]
    needs = {name for name, how in said.get("depends_on", {}).items() if how["condition"] == "service_healthy"}
    assert needs == {*server.needs}
    assert signal.Signals[said.get("stop_signal", "SIGTERM")] is server.stop


@pytest.mark.parametrize("server", [one for one in SERVERS if one is not POSTGRESQL], ids=lambda server: server.name)
def test_a_server_is_told_and_asked_the_same_in_both(server: Server, made: Stack) -> None:
    said = SERVICES[server.name]
    told = {key: as_process(server.name, value, made) for key, value in said["environment"].items()}
    assert told == {key: made.filled(server, text) for key, text in server.variables.items()}
    question = as_process(server.name, said["healthcheck"]["test"], made)
    expects = f" | grep -q {server.says}" if server.says else ""
    assert question == f"curl -fsS {made.filled(server, server.health)}{expects}"


def test_postgres_is_made_and_asked_the_same_in_both(made: Stack) -> None:
    said = SERVICES["postgres"]
    assert {key: as_process("-", value, made) for key, value in said["environment"].items()} == {
        "POSTGRES_USER": made.values["PGUSER"],
        "POSTGRES_PASSWORD": made.values["PGPASSWORD"],
        "POSTGRES_DB": "127.0.0.1",  # postgres, which is a host elsewhere
        "POSTGRES_INITDB_ARGS": " ".join(programs.INITDB),
    }
    host, port, user = (made.values[key] for key in ("PGHOST", "PGPORT", "PGUSER"))
    assert as_process("postgres", said["healthcheck"]["test"], made) == f"pg_isready -h {host} -p {port} -U {user}"
    name, version = said["image"].split(":")
    assert name == "postgres"
    assert int(re.fullmatch(r"(\d+)\.\d+-\w+", version)[1]) >= programs.OLDEST_POSTGRES  # type: ignore[index]


def test_buckets_and_databases_are_made_by_the_same_code() -> None:
    assert (MINIO.once_well, POSTGRESQL.once_well) == (prepare.buckets, prepare.databases)
    assert SERVICES["prepare"]["command"] == "python -m deploy.prepare"
    assert {*SERVICES["prepare"]["environment"]} == {*S3, *POSTGRES}
    assert SERVICES["mlflow"]["depends_on"]["prepare"] == {"condition": "service_completed_successfully"}
    for bucket in re.findall(r"s3://(\w+)", " ".join(str(said["command"]) for said in SERVICES.values())):
        assert bucket in prepare.BUCKETS


def test_both_run_the_same_minio_and_the_same_project() -> None:
    dockerfile = (PROJECT / "deploy/minio.Dockerfile").read_text()
    assert re.fullmatch(r"v0\.0\.0-\d{14}-[0-9a-f]{12}", programs.MINIO_VERSION)
    assert f"go install {programs.MINIO}@${{MINIO_VERSION}}" in dockerfile
    assert SERVICES["minio"]["build"] == {"context": "deploy", "dockerfile": "minio.Dockerfile"}
    for name in {*SERVICES} - {"minio", "postgres"}:
        assert SERVICES[name]["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile"}
    for name in ("Dockerfile", "api.Dockerfile"):
        image = (PROJECT / "deploy" / name).read_text()
        assert "--constraint constraints.txt" in image
        assert re.search(r"(?m)^USER lakehouse$", image)
    assert ".env" in (PROJECT / ".dockerignore").read_text().splitlines()


def test_everything_published_is_on_loopback_and_healthy_or_done() -> None:
    for name, said in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in said.get("ports", []))
        assert ("healthcheck" in said) == (name != "prepare")
    volumes = yaml.safe_load(COMPOSE_FILE.read_text())["volumes"]
    mounted = {volume.split(":")[0] for said in SERVICES.values() for volume in said.get("volumes", [])}
    assert mounted - {"./notebooks"} == {*volumes}


def test_no_secret_is_on_a_command_line() -> None:
    for said in SERVICES.values():
        lines = f"{said['command']} {said.get('healthcheck', '')} {said.get('ports', '')}"
        assert not [key for key in [*SECRETS, "PGPASSWORD"] if key in lines]
    for server in SERVERS:
        assert not [key for key in [*SECRETS, "PGPASSWORD"] if key in f"{server.command} {server.health}"]


# --- .env ---------------------------------------------------------------------------------------------------------------


def test_the_example_has_the_keys_that_both_read() -> None:
    by_compose = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text()))
    asked_for = set(re.findall(r"\$\{(\w+):\?run make env}", COMPOSE_FILE.read_text()))
    assert by_compose == asked_for
    by_stack = {key for server in SERVERS for key in server.ports}
    for server in SERVERS:
        for text in (*server.command, server.health, *server.variables.values()):
            by_stack |= {*Template(text).get_identifiers()} - {"FOLDER", "PROJECT"}
    for module in (prepare, programs, stack):
        by_stack |= set(re.findall(r'\["([A-Z]+_?[A-Z_]*)"\]', Path(str(module.__file__)).read_text()))
    assert {*dotenv_values(env.EXAMPLE)} == by_compose | by_stack | {"COMPOSE_PROFILES", "SERVING_API_KEY"}


def test_only_secrets_have_no_value_in_the_example() -> None:
    passwords = {"AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD"}
    assert {*SECRETS} == passwords | {"MLFLOW_FLASK_SERVER_SECRET_KEY", "JUPYTER_TOKEN", "SERVING_API_KEY"}
    assert not re.search(r":-|:=", COMPOSE_FILE.read_text()), "a default in docker-compose.yml"


def test_make_env_writes_for_the_owner_alone_and_never_again(tmp_path: Path) -> None:
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
    assert "stays as it is" in make()
    assert written.read_text() == "mine"


def test_what_env_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="run make env"):
        read_env(tmp_path / ".env")
    with pytest.raises(StackError, match="no value for AWS_SECRET_ACCESS_KEY, POSTGRES_PASSWORD, PGPASSWORD, MLFLOW"):
        read_env(env.EXAMPLE)


# --- processes ----------------------------------------------------------------------------------------------------------


def a_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def small(name: str, *command: str, **more: Any) -> Server:
    """A server that is a Python program."""
    given = {"ports": ("MINIO_PORT",), "health": "http://127.0.0.1:${MINIO_PORT}/", **more}
    return Server(name=name, command=(sys.executable, *command), **given)


SERVES = ("-m", "http.server", "--bind", "127.0.0.1", "${MINIO_PORT}")
SLEEPS = ("-c", "import time; time.sleep(60)")


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Stack]:
    """A stack for small servers; none outlives the test."""
    env.write(tmp_path / ".env")
    made = Stack(tmp_path / "stack", {**read_env(tmp_path / ".env"), "MINIO_PORT": str(a_port())})
    yield made
    for record in (made.folder / "run").glob("*.json"):
        processes.stop(made.folder, record.stem, signal.SIGKILL)


def test_a_server_is_started_once_and_stopped_whole(on: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    server = small("web", *SERVES)
    up(on, [server])
    first = processes.alive(on.folder, "web")
    assert first is not None
    up(on, [server])
    assert processes.alive(on.folder, "web") == first
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said] == ["web: started", "web: runs already"]
    stack.down(on.folder, [server])
    stack.down(on.folder, [server])
    assert capsys.readouterr().out.split("\n")[:2] == ["web: stopped", "web: did not run"]
    assert not processes._runs(first)
    assert processes.is_free(int(on.values["MINIO_PORT"]))


def test_a_server_is_told_only_what_it_needs(on: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "sings")
    up(on, [small("web", *SERVES, variables={"TOLD": "${AWS_ACCESS_KEY_ID}"})])
    process = processes.alive(on.folder, "web")
    assert process is not None
    told = process.environ()
    assert told.keys() - {"JAVA_HOME", "LANG", "TZ", "LC_CTYPE"} == {"PATH", "HOME", "TOLD"}
    assert (told["HOME"], told["TOLD"]) == (str(on.folder / "web"), "lakehouse")


def test_a_taken_port_is_named_with_its_key_before_anything_starts(on: Stack) -> None:
    with socket.socket() as holder, socket.socket() as other:
        holder.bind(("127.0.0.1", int(on.values["MINIO_PORT"])))
        holder.listen()
        other.bind(("0.0.0.0", 0))  # noqa: S104
        other.listen()
        on.values["MLFLOW_PORT"] = str(other.getsockname()[1])
        with pytest.raises(StackError) as raised:
            up(
                on,
                [
                    small("first", *SERVES, ports=()),
                    small("web", *SERVES),
                    small("more", *SERVES, ports=("MLFLOW_PORT",)),
                ],
            )
    assert str(raised.value).splitlines() == [
        f"Port {on.values['MINIO_PORT']} for web is taken: free it, or change MINIO_PORT.",
        f"Port {on.values['MLFLOW_PORT']} for more is taken: free it, or change MLFLOW_PORT.",
    ]
    assert not (on.folder / "run").exists()


def test_a_server_that_does_not_come_up_is_named_with_its_log(on: Stack) -> None:
    with pytest.raises(StackError) as raised:
        up(on, [small("sleeper", *SLEEPS)], wait_seconds=0.5)
    assert re.match(r"sleeper did not come up in 0 seconds \(.*Connection refused.*\); its log is ", str(raised.value))
    assert str(raised.value).endswith(f"{on.folder / 'logs' / 'sleeper.log'}.")
    with pytest.raises(StackError, match="broken ended while it started; its log is .*/logs/broken.log"):
        up(on, [small("broken", "-c", "raise SystemExit('no')")])
    assert (on.folder / "logs" / "broken.log").read_text() == "no\n"


def test_a_server_starts_when_what_it_needs_is_well(on: Stack) -> None:
    started = []

    def note(values: object) -> None:
        started.append(processes.alive(on.folder, "second"))

    up(on, [small("first", *SERVES, once_well=note), small("second", *SLEEPS, ports=(), needs=("first",))])
    assert started[0] is None
    assert processes.alive(on.folder, "second")


def test_a_process_that_only_has_a_records_number_is_left_alone(on: Stack) -> None:
    bystander = subprocess.Popen([sys.executable, *SLEEPS], start_new_session=True)
    try:
        processes.start(on.folder, "web", processes.Launch([sys.executable, *SLEEPS], {}))
        processes.stop(on.folder, "web")
        born = psutil.Process(bystander.pid).create_time()
        record = on.folder / "run" / "web.json"
        record.write_text(f'{{"pid": {bystander.pid}, "created": {born - 60}}}')
        assert processes.alive(on.folder, "web") is None
        assert processes.stop(on.folder, "web") is False
        assert bystander.poll() is None
        assert not record.exists()
    finally:
        bystander.kill()
        bystander.wait()


PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, {how}); print(1, flush=True); time.sleep(60)"])
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["signal.SIG_DFL", "signal.SIG_IGN"])
def test_children_are_stopped_with_and_without_their_server(
    on: Stack, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 1.0)
    for parent_first in (False, True):
        processes.start(on.folder, "web", processes.Launch([sys.executable, "-c", PARENT.format(how=how)], {}))
        log = processes.log_of(on.folder, "web")
        while not log.read_text():
            time.sleep(0.05)
        parent, child = processes.members(on.folder, "web")
        if parent_first:
            parent.kill()
            while processes._runs(parent):
                time.sleep(0.05)
        assert processes.stop(on.folder, "web")
        assert not [one for one in (parent, child) if processes._runs(one)]
        log.write_text("")


def test_services_are_chosen_by_name_with_what_they_need() -> None:
    def names(text: str, **more: bool) -> list[str]:
        return [server.name for server in chosen(text, **more)]

    assert names("spark") == ["spark-master", "spark-worker-1", "spark-worker-2"]
    assert names("mlflow") == ["mlflow"]
    assert names("mlflow", with_needs=True) == ["minio", "postgres", "mlflow"]
    with pytest.raises(StackError, match="No server is named oracle; there are minio, postgres, spark, mlflow."):
        chosen("minio,oracle")


def test_a_missing_program_is_said_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MINIO_BUILT", tmp_path / "minio")
    monkeypatch.setattr(programs.shutil, "which", lambda name, path=None: None)
    with pytest.raises(StackError, match=r"install Go 1.24 or newer .*github.com/minio/minio@v0"):
        programs.find("minio", tmp_path)
    with pytest.raises(StackError, match="mlflow is not in .*: run make stack"):
        programs.find("mlflow", tmp_path)
    (tmp_path / "PG_VERSION").write_text("9")
    with pytest.raises(StackError, match=r"PostgreSQL 9, which made .*, is missing .*apt-get install postgresql"):
        programs.find("postgres", tmp_path)
    (tmp_path / "minio").touch()
    assert programs.find("minio", tmp_path) == str(tmp_path / "minio")
