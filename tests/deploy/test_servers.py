"""The servers: docker compose and `make stack` agree, containers are confined, processes start and stop."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dotenv import dotenv_values

from deploy import env, prepare, processes, programs, stack
from deploy.servers import MINIO, POSTGRES, POSTGRESQL, S3, SERVERS, Server
from deploy.stack import Stack, read_env, select_servers, up
from lakehouse.errors import StackError
from tests.paths import PROJECT

COMPOSE_FILE = PROJECT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
# The folder in an image that stands for the server's own folder.
INSIDE = {"minio": "/data", "spark-worker-1": "/work", "spark-worker-2": "/work"}
SECRETS = [key for key, value in dotenv_values(env.EXAMPLE, interpolate=False).items() if not value]


@pytest.fixture
def made(tmp_path: Path) -> Stack:
    env.write(tmp_path / ".env")
    return Stack(tmp_path / "stack", read_env(tmp_path / ".env"))


def filled(text: str, made: Stack) -> str:
    return re.sub(r"\$\{(\w+)(:\?run make env)?}", lambda key: made.values[key[1]], text)


def as_process(service: str, text: str, made: Stack) -> str:
    """Return a text of docker-compose.yml as a process of this machine needs it."""
    hosts = "|".join(["0.0.0.0", *SERVICES])  # noqa: S104
    local = re.sub(rf"(?<![\w.-])({hosts})(?=:\d)|^({hosts})$", "127.0.0.1", filled(text, made))
    if local == INSIDE.get(service):
        return str(made.folder / service)
    return re.sub("^/lakehouse/", f"{PROJECT}/", local)


def words(command: list[str]) -> list[object]:
    """Split a command; the members of a list have no order."""
    return [set(word.split(",")) if "," in word else word for word in command]


# --- compose and stack ------------------------------------------------------------------------------------------------


def test_compose_and_stack_have_same_servers() -> None:
    assert {*SERVICES} == {server.name for server in SERVERS} | {"prepare", "jupyter"}
    assert {name: service["profiles"] for name, service in SERVICES.items()} == {
        **{name: ["core"] for name in ("minio", "postgres", "prepare", "mlflow")},
        **{name: ["cluster"] for name in ("spark-master", "spark-worker-1", "spark-worker-2")},
        "jupyter": ["notebooks"],
    }


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_server_is_the_same_in_both(server: Server, made: Stack) -> None:
    service = SERVICES[server.name]
    program, *arguments = shlex.split(filled(service["command"], made))
    command = [program, *(as_process(server.name, word, made) for word in arguments)]
    native = [made.fill(server, word) for word in server.command]
    if server is POSTGRESQL:
        # The image has its folder, and listens for its network.
        data = str(made.folder / "postgres")
        for own in ("-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="):
            native.remove(own)
    assert words(command) == words(native)
    assert service["ports"] == [f"127.0.0.1:${{{key}}}:${{{key}}}" for key in server.ports]
    needs = {name for name, how in service.get("depends_on", {}).items() if how["condition"] == "service_healthy"}
    assert needs == {*server.needs}
    assert signal.Signals[service.get("stop_signal", "SIGTERM")] is server.stop


@pytest.mark.parametrize(
    "server", [server for server in SERVERS if server is not POSTGRESQL], ids=lambda server: server.name
)
def test_environment_and_health_check_are_same_in_both(server: Server, made: Stack) -> None:
    service = SERVICES[server.name]
    variables = {key: as_process(server.name, value, made) for key, value in service["environment"].items()}
    assert variables == {key: made.fill(server, text) for key, text in server.variables.items()}
    check = as_process(server.name, service["healthcheck"]["test"], made)
    expects = f" | grep -q {server.health_word}" if server.health_word else ""
    assert check == f"curl -fsS {made.fill(server, server.health)}{expects}"


def test_postgres_is_the_same_in_both(made: Stack) -> None:
    service = SERVICES["postgres"]
    assert {key: as_process("-", value, made) for key, value in service["environment"].items()} == {
        "POSTGRES_USER": made.values["PGUSER"],
        "POSTGRES_PASSWORD": made.values["PGPASSWORD"],
        "POSTGRES_DB": "127.0.0.1",  # postgres, which is a host elsewhere
        "POSTGRES_INITDB_ARGS": " ".join(programs.INITDB),
    }
    host, port, user = (made.values[key] for key in ("PGHOST", "PGPORT", "PGUSER"))
    assert as_process("postgres", service["healthcheck"]["test"], made) == f"pg_isready -h {host} -p {port} -U {user}"
    name, version = service["image"].split(":")
    assert name == "postgres"
    assert int(re.fullmatch(r"(\d+)\.\d+-\w+", version)[1]) >= programs.OLDEST_POSTGRES  # type: ignore[index]


def test_same_code_creates_buckets_and_databases() -> None:
    assert (MINIO.when_healthy, POSTGRESQL.when_healthy) == (prepare.create_buckets, prepare.create_databases)
    assert SERVICES["prepare"]["command"] == "python -m deploy.prepare"
    assert {*SERVICES["prepare"]["environment"]} == {*S3, *POSTGRES}
    assert SERVICES["mlflow"]["depends_on"]["prepare"] == {"condition": "service_completed_successfully"}
    for bucket in re.findall(r"s3://(\w+)", " ".join(str(service["command"]) for service in SERVICES.values())):
        assert bucket in prepare.BUCKETS


def test_both_run_same_minio_and_project() -> None:
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


def test_ports_are_on_loopback_with_health_checks() -> None:
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert ("healthcheck" in service) == (name != "prepare")
    volumes = yaml.safe_load(COMPOSE_FILE.read_text())["volumes"]
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {volume for volume in mounted if not volume.startswith("/")} - {"./notebooks"} == {*volumes}


def test_containers_are_confined() -> None:
    for name, service in SERVICES.items():
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"]), name
        assert service["read_only"] == (name != "jupyter"), name
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert service["restart"] == ("no" if name == "prepare" else "unless-stopped"), name
        assert not {"cap_add", "privileged", "network_mode", "pid", "ipc", "devices"} & {*service}, name
        writable = [*service.get("volumes", []), *service.get("tmpfs", [])]
        assert not [volume for volume in writable if ".sock" in volume or re.match(r"/($|:|etc|proc|sys)", volume)]
        if name != "jupyter":
            assert any(volume.split(":")[-1] == "/tmp" for volume in writable), name


def test_no_container_runs_as_root() -> None:
    assert SERVICES["postgres"]["user"] == "postgres"
    for name in {*SERVICES} - {"postgres"}:
        assert "user" not in SERVICES[name]
        dockerfile = (PROJECT / SERVICES[name]["build"]["context"] / SERVICES[name]["build"]["dockerfile"]).read_text()
        assert re.findall(r"(?m)^USER (\S+)$", dockerfile)[-1] in ("lakehouse", "minio")


def test_images_are_pinned_by_version() -> None:
    local = {"lakehouse", "lakehouse:local", "lakehouse-minio:local"}
    images = {service["image"] for service in SERVICES.values()}
    for dockerfile in (PROJECT / "deploy").rglob("*Dockerfile"):
        text = dockerfile.read_text()
        stages = set(re.findall(r"(?m)^FROM \S+ AS (\S+)", text))
        images |= set(re.findall(r"(?m)(?:^FROM |--from=)(\S+)", text)) - stages
    assert "postgres:15.14-bookworm" in images
    # Debian and PostgreSQL have versions of two numbers.
    pinned = r"(debian|postgres):\d+\.\d+-\S+|\S+:\d+\.\d+\.\d+-\S+"
    assert not [image for image in images - local if not re.fullmatch(pinned, image)]


def test_no_secret_is_on_a_command_line() -> None:
    for service in SERVICES.values():
        lines = f"{service['command']} {service.get('healthcheck', '')} {service.get('ports', '')}"
        assert not [key for key in [*SECRETS, "PGPASSWORD"] if key in lines]
    for server in SERVERS:
        assert not [key for key in [*SECRETS, "PGPASSWORD"] if key in f"{server.command} {server.health}"]


# --- processes --------------------------------------------------------------------------------------------------------


def a_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def small(name: str, *command: str, **more: Any) -> Server:
    """Return a server that is a Python program."""
    fields = {"ports": ("MINIO_PORT",), "health": "http://127.0.0.1:${MINIO_PORT}/", **more}
    return Server(name=name, command=(sys.executable, *command), **fields)


SERVES = ("-m", "http.server", "--bind", "127.0.0.1", "${MINIO_PORT}")
SLEEPS = ("-c", "import time; time.sleep(60)")


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Stack]:
    """Yield a stack for small servers; none outlives the test."""
    env.write(tmp_path / ".env")
    made = Stack(tmp_path / "stack", {**read_env(tmp_path / ".env"), "MINIO_PORT": str(a_port())})
    yield made
    for record in (made.folder / "run").glob("*.json"):
        processes.stop(made.folder, record.stem, signal.SIGKILL)


def test_server_starts_once_and_stops_completely(on: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    server = small("web", *SERVES)
    up(on, [server])
    first = processes.find_process(on.folder, "web")
    assert first is not None
    up(on, [server])
    assert processes.find_process(on.folder, "web") == first
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["web: started", "web: runs already"]
    stack.down(on.folder, [server])
    stack.down(on.folder, [server])
    assert capsys.readouterr().out.split("\n")[:2] == ["web: stopped", "web: did not run"]
    assert not processes._is_running(first)
    assert processes.is_free(int(on.values["MINIO_PORT"]))


def test_server_environment_is_minimal(on: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "sings")
    up(on, [small("web", *SERVES, variables={"TOLD": "${AWS_ACCESS_KEY_ID}"})])
    process = processes.find_process(on.folder, "web")
    assert process is not None
    environment = process.environ()
    assert environment.keys() - {"JAVA_HOME", "LANG", "TZ", "LC_CTYPE"} == {"PATH", "HOME", "TOLD"}
    assert (environment["HOME"], environment["TOLD"]) == (str(on.folder / "web"), "lakehouse")


def test_ports_in_use_are_named_before_start(on: Stack) -> None:
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
        f"web: port {on.values['MINIO_PORT']} is in use. Free it, or change MINIO_PORT.",
        f"more: port {on.values['MLFLOW_PORT']} is in use. Free it, or change MLFLOW_PORT.",
    ]
    assert not (on.folder / "run").exists()


def test_unhealthy_server_is_named_with_its_log(on: Stack) -> None:
    with pytest.raises(StackError) as raised:
        up(on, [small("sleeper", *SLEEPS)], wait_seconds=0.5)
    assert re.match(
        r"sleeper: not healthy after 0 seconds \(.*Connection refused.*\)\. Read its log: ", str(raised.value)
    )
    assert str(raised.value).endswith(f"{on.folder / 'logs' / 'sleeper.log'}.")
    with pytest.raises(StackError, match="broken: ended while it started. Read its log: .*/logs/broken.log"):
        up(on, [small("broken", "-c", "raise SystemExit('no')")])
    assert (on.folder / "logs" / "broken.log").read_text() == "no\n"


def test_server_starts_after_healthy_needs(on: Stack) -> None:
    started = []

    def note(values: object) -> None:
        started.append(processes.find_process(on.folder, "second"))

    up(on, [small("first", *SERVES, when_healthy=note), small("second", *SLEEPS, ports=(), needs=("first",))])
    assert started[0] is None
    assert processes.find_process(on.folder, "second")


def test_other_process_with_recorded_pid_survives(on: Stack) -> None:
    bystander = subprocess.Popen([sys.executable, *SLEEPS], start_new_session=True)
    try:
        processes.start(on.folder, "web", processes.Launch([sys.executable, *SLEEPS], {}))
        processes.stop(on.folder, "web")
        born = psutil.Process(bystander.pid).create_time()
        record = on.folder / "run" / "web.json"
        record.write_text(f'{{"pid": {bystander.pid}, "created": {born - 60}}}')
        assert processes.find_process(on.folder, "web") is None
        assert processes.stop(on.folder, "web") is False
        assert bystander.poll() is None
        assert not record.exists()
    finally:
        bystander.kill()
        bystander.wait()


PARENT = """
import subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, {how}); print(1, flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["signal.SIG_DFL", "signal.SIG_IGN"])
def test_children_stop_with_and_without_server(on: Stack, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 1.0)
    for parent_first in (False, True):
        processes.start(on.folder, "web", processes.Launch([sys.executable, "-c", PARENT.format(how=how)], {}))
        log = processes.log_path(on.folder, "web")
        while not log.read_text():
            time.sleep(0.05)
        parent, child = processes.find_processes(on.folder, "web")
        if parent_first:
            parent.kill()
            while processes._is_running(parent):
                time.sleep(0.05)
        assert processes.stop(on.folder, "web")
        assert not [process for process in (parent, child) if processes._is_running(process)]
        log.write_text("")


def test_servers_are_selected_with_their_needs() -> None:
    def names(text: str, **more: bool) -> list[str]:
        return [server.name for server in select_servers(text, **more)]

    assert names("spark") == ["spark-master", "spark-worker-1", "spark-worker-2"]
    assert names("mlflow") == ["mlflow"]
    assert names("mlflow", with_needs=True) == ["minio", "postgres", "mlflow"]
    with pytest.raises(
        StackError, match="oracle: no server has this name. Choose from minio, postgres, spark, mlflow."
    ):
        select_servers("minio,oracle")


def test_missing_program_is_named_with_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MINIO_BUILT", tmp_path / "minio")
    monkeypatch.setattr(programs.shutil, "which", lambda name, path=None: None)
    with pytest.raises(StackError, match=r"github.com/minio/minio@v0.*install Go 1.24 or newer"):
        programs.find("minio", tmp_path)
    with pytest.raises(StackError, match="mlflow: the program is not in .*. Run make stack"):
        programs.find("mlflow", tmp_path)
    (tmp_path / "PG_VERSION").write_text("9")
    with pytest.raises(StackError, match=r"PostgreSQL 9, which created .*, is missing.*apt-get install postgresql"):
        programs.find("postgres", tmp_path)
    (tmp_path / "minio").touch()
    assert programs.find("minio", tmp_path) == str(tmp_path / "minio")
