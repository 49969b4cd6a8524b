"""Servers as `make stack` starts them, on free ports and in one folder for all tests of this file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from mlflow import MlflowClient

from deploy import prepare, processes
from deploy.servers import SERVERS
from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import open_tracking_client
from tests.stack import SECRETS, RunningServers, listening_addresses, running_servers

# A machine without MinIO builds it first, once.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServers]:
    with running_servers() as servers:
        yield servers


def test_minio_stores_objects_and_refuses_wrong_keys(running: RunningServers) -> None:
    s3 = running.s3(running.values["AWS_SECRET_ACCESS_KEY"])
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == {*prepare.BUCKETS}
    s3.put_object(Bucket="lakehouse", Key="a/b.txt", Body=b"content")
    assert s3.get_object(Bucket="lakehouse", Key="a/b.txt")["Body"].read() == b"content"
    with pytest.raises(Exception, match="SignatureDoesNotMatch"):
        running.s3("minioadmin").list_buckets()
    status, page = running.get(f"http://127.0.0.1:{running.values['MINIO_CONSOLE_PORT']}/", Accept="text/html")
    assert (status, "MinIO Console" in page) == (200, True)


def test_postgres_requires_the_password(running: RunningServers) -> None:
    with prepare.connect(running.values) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert connection.execute("show password_encryption").fetchone() == ("scram-sha-256",)
        names = {name for (name,) in connection.execute("select datname from pg_database")}
        methods = {method for (method,) in connection.execute("select auth_method from pg_hba_file_rules")}
    assert {*prepare.DATABASES} <= names
    assert methods == {"scram-sha-256"}
    for wrong in ("", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            prepare.connect({**running.values, "PGPASSWORD": wrong})


def test_mlflow_requires_the_password_and_its_own_host(running: RunningServers) -> None:
    url = f"{running.values['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"

    def basic(password: str) -> str:
        return "Basic " + b64encode(f"{running.values['MLFLOW_TRACKING_USERNAME']}:{password}".encode()).decode()

    right = basic(running.values["MLFLOW_TRACKING_PASSWORD"])
    assert running.get(url)[0] == 401
    assert running.get(url, Authorization=basic("password1234"))[0] == 401
    assert running.get(url, Authorization=right)[0] == 200
    assert running.get(url, Authorization=right, Host="elsewhere.example")[0] == 403


def test_an_artifact_logged_to_mlflow_lands_in_minio(running: RunningServers, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(key, running.values[key])
    client = MlflowClient(tracking_uri=running.values["MLFLOW_TRACKING_URI"])
    run = client.create_run(client.create_experiment("stack"))
    client.log_text(run.info.run_id, "it lands", "notes/text.txt")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    s3 = running.s3(running.values["AWS_SECRET_ACCESS_KEY"])
    (landed,) = s3.list_objects_v2(Bucket="mlflow")["Contents"]
    assert landed["Key"].endswith(f"/{run.info.run_id}/artifacts/notes/text.txt")
    assert s3.get_object(Bucket="mlflow", Key=landed["Key"])["Body"].read() == b"it lands"
    with psycopg.connect(
        host="127.0.0.1",
        port=running.values["PGPORT"],
        user=running.values["PGUSER"],
        password=running.values["PGPASSWORD"],
        dbname="mlflow",
    ) as connection:
        assert connection.execute("select run_uuid from runs").fetchall() == [(run.info.run_id,)]


def test_mlflow_names_a_lost_database_and_recovers(running: RunningServers, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(key, running.values[key])
    uri = running.values["MLFLOW_TRACKING_URI"]

    def experiments() -> int:
        with open_tracking_client(uri) as client:
            return len(client.search_experiments())

    before = experiments()
    postgres = replace(running, services="postgres")
    postgres.command("down")
    try:
        began = time.monotonic()
        with pytest.raises(ModelError, match=r"The MLflow server at .*MLFLOW_TRACKING_URI.* its database") as error:
            experiments()
        assert time.monotonic() - began < 60
        assert not [key for key in SECRETS if running.values[key] in str(error.value)]
    finally:
        postgres.command("up")
    assert experiments() == before
    with monkeypatch.context() as changed:
        changed.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(ModelError, match="Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
            experiments()


JOB = """
import json, os, psutil
from pyspark.sql import SparkSession

def inspect(_):
    executor = next(p for p in psutil.Process().parents() if "Executor" in " ".join(p.cmdline()))
    listening = [c.laddr[0] for c in executor.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    return listening, sorted(os.environ), executor.cmdline()

local = {f"spark.driver.{key}": "127.0.0.1" for key in ("host", "bindAddress")}
spark = SparkSession.builder.config(map={**local, "spark.ui.enabled": False}).getOrCreate()
print(json.dumps(spark.sparkContext.parallelize([0, 1], 2).map(inspect).collect()))
spark.stop()
"""


def test_executors_of_both_workers_have_only_s3_keys(running: RunningServers) -> None:
    master = json.loads(running.get(f"http://127.0.0.1:{running.values['SPARK_MASTER_UI_PORT']}/json/")[1])
    assert [(worker["state"], worker["cores"], worker["memory"]) for worker in master["workers"]] == [
        ("ALIVE", 1, 2048)
    ] * 2
    variables = {key: os.environ[key] for key in ("PATH", "JAVA_HOME") if key in os.environ}
    variables |= {"PYSPARK_PYTHON": sys.executable, "PYSPARK_SUBMIT_ARGS": f"--master {master['url']} pyspark-shell"}
    result = subprocess.run([sys.executable, "-c", JOB], check=True, capture_output=True, text=True, env=variables)
    for addresses, names, command in json.loads(result.stdout):
        assert {ip.removeprefix("::ffff:") for ip in addresses} == {"127.0.0.1"}
        assert {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= {*names}
        assert not {"CANARY", "PGPASSWORD", "POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD"} & {*names}
        assert not [key for key in SECRETS if running.values[key] in " ".join(command)]


def test_nothing_listens_beyond_loopback(running: RunningServers) -> None:
    ports = {server.name: {int(running.values[key]) for key in server.ports} for server in SERVERS}
    for name, members in running.processes().items():
        addresses = set().union(*(listening_addresses(process) for process in members))
        assert {ip for ip, _ in addresses} <= {"127.0.0.1", "::1"}, name
        assert ports[name] <= {port for _, port in addresses}, name
        # A worker listens at one more port, which it sends to its master.
        assert len({port for _, port in addresses} - ports[name]) == int(name.startswith("spark-worker")), name


def test_command_lines_and_files_have_no_secret(running: RunningServers) -> None:
    secrets = {key: running.values[key].encode() for key in SECRETS}
    for name, line in running.read_process_data("cmdline"):
        assert not [key for key, secret in secrets.items() if secret in line], name
    files = [file for file in running.folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {f"{server.name}.log" for server in SERVERS}
    assert not [(key, file) for file in files for key, secret in secrets.items() if secret in file.read_bytes()]


def test_a_server_has_no_secret_of_another(running: RunningServers) -> None:
    secrets: dict[str, set[str]] = {server.name: set() for server in SERVERS}
    for name, environment in running.read_process_data("environ"):
        secrets[name] |= {key for key in SECRETS if running.values[key].encode() in environment}
        assert b"CANARY" not in environment, name
    s3 = {"AWS_SECRET_ACCESS_KEY"}
    assert secrets == {
        "minio": s3,
        "postgres": set(),
        "spark-master": set(),
        "mlflow": {*SECRETS} - {"JUPYTER_TOKEN", "SERVING_API_KEY"},
        "spark-worker-1": s3,
        "spark-worker-2": s3,
    }


def test_postgres_does_not_run_as_root(running: RunningServers) -> None:
    assert all(process.username() != "root" for process in running.processes()["postgres"])


def test_up_again_starts_only_stopped_servers(running: RunningServers) -> None:
    before = running.processes()
    before["mlflow"][0].kill()
    assert "mlflow: the process does not run\n" in running.command("status", exit_code=1)
    lines = running.command("up").splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"{server.name}: {'started' if server.name == 'mlflow' else 'runs already'}" for server in SERVERS
    ]
    after = running.processes()
    assert {name for name in before if before[name][0] != after[name][0]} == {"mlflow"}
    assert not [process for process in before["mlflow"] if processes._is_running(process)]
    assert running.command("status").splitlines() == [f"{server.name}: healthy" for server in SERVERS]


def test_down_stops_only_the_servers_of_up(running: RunningServers) -> None:
    started = [process for group in running.processes().values() for process in group]
    bystander = subprocess.Popen(["sleep", "600"], cwd=running.folder / "minio", start_new_session=True)
    try:
        lines = running.command("down").splitlines()
        assert lines == [f"{server.name}: stopped" for server in reversed(SERVERS)]
        assert not [process for process in started if processes._is_running(process)]
        assert bystander.poll() is None
        assert all(processes.is_free(int(running.values[key])) for server in SERVERS for key in server.ports)
        assert [*(running.folder / "run").iterdir()] == []
        assert running.command("down").splitlines() == [f"{server.name}: did not run" for server in reversed(SERVERS)]
    finally:
        bystander.kill()
        bystander.wait()
