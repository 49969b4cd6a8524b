"""The servers of docker-compose.yml as processes of this machine; a test keeps both in step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deploy.prepare import Variables, buckets, databases


def _passed(*keys: str) -> dict[str, str]:
    return {key: f"${{{key}}}" for key in keys}


S3 = _passed("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
POSTGRES = _passed("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD")


@dataclass(frozen=True)
class Server:
    """One server. ``${NAME}`` stands for a value of .env, ``${FOLDER}`` for the server's own folder."""

    name: str
    command: tuple[str, ...]
    # Keys of .env.
    ports: tuple[str, ...]
    # It is well when this address answers with this word in it; PostgreSQL, when it lets its user in.
    health: str
    says: str = ""
    # All that it is told, so that no server knows another's secrets.
    variables: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    once_well: Callable[[Variables], None] | None = None
    stop: signal.Signals = signal.SIGTERM


MINIO = Server(
    name="minio",
    command=(
        *("minio", "server", "${FOLDER}"),
        *("--address", "127.0.0.1:${MINIO_PORT}", "--console-address", "127.0.0.1:${MINIO_CONSOLE_PORT}"),
    ),
    ports=("MINIO_PORT", "MINIO_CONSOLE_PORT"),
    health="${AWS_ENDPOINT_URL}/minio/health/live",
    variables={"MINIO_ROOT_USER": "${AWS_ACCESS_KEY_ID}", "MINIO_ROOT_PASSWORD": "${AWS_SECRET_ACCESS_KEY}"},
    once_well=buckets,
)

POSTGRESQL = Server(
    name="postgres",
    command=(
        *("postgres", "-D", "${FOLDER}", "-p", "${POSTGRES_PORT}"),
        *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
    ),
    ports=("POSTGRES_PORT",),
    health="postgresql://${PGHOST}:${PGPORT}",
    once_well=databases,
    # Fast: it does not wait for its clients to leave.
    stop=signal.SIGINT,
)

MLFLOW = Server(
    name="mlflow",
    command=(
        *("mlflow", "server", "--host", "127.0.0.1", "--port", "${MLFLOW_PORT}", "--workers", "1"),
        *("--app-name", "basic-auth", "--artifacts-destination", "s3://mlflow"),
        *("--allowed-hosts", "127.0.0.1:${MLFLOW_PORT},localhost:${MLFLOW_PORT}"),
    ),
    ports=("MLFLOW_PORT",),
    health="${MLFLOW_TRACKING_URI}/health",
    says="OK",
    variables={
        **S3,
        **POSTGRES,
        # The password is not in here, because others can read it: PGPASSWORD has it.
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg:///mlflow",
        "MLFLOW_AUTH_CONFIG_PATH": "${PROJECT}/deploy/mlflow_auth.ini",
        "MLFLOW_AUTH_ADMIN_USERNAME": "${MLFLOW_TRACKING_USERNAME}",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "${MLFLOW_TRACKING_PASSWORD}",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "${MLFLOW_FLASK_SERVER_SECRET_KEY}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    },
    needs=("minio", "postgres"),
)

_SPARK = {"SPARK_LOCAL_IP": "${SPARK_LOCAL_IP}", "SPARK_DAEMON_MEMORY": "512m"}

SPARK_MASTER = Server(
    name="spark-master",
    command=(
        *("spark-class", "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1"),
        *("--port", "${SPARK_MASTER_PORT}", "--webui-port", "${SPARK_MASTER_UI_PORT}"),
    ),
    ports=("SPARK_MASTER_PORT", "SPARK_MASTER_UI_PORT"),
    health="http://${SPARK_LOCAL_IP}:${SPARK_MASTER_UI_PORT}/json/",
    says="ALIVE",
    # Spark's REST server, on a port of its own (6066), would be one more way in.
    variables={**_SPARK, "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false"},
)


def _spark_worker(number: int) -> Server:
    return Server(
        name=f"spark-worker-{number}",
        command=(
            *("spark-class", "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1"),
            *("--webui-port", f"${{SPARK_WORKER_{number}_UI_PORT}}", "--work-dir", "${FOLDER}"),
            *("--cores", "1", "--memory", "2G", "spark://127.0.0.1:${SPARK_MASTER_PORT}"),
        ),
        ports=(f"SPARK_WORKER_{number}_UI_PORT",),
        health=f"http://${{SPARK_LOCAL_IP}}:${{SPARK_WORKER_{number}_UI_PORT}}/json/",
        # It names its master once it is registered there.
        says="spark://",
        # Its executors inherit what they reach S3 by.
        variables={**_SPARK, **S3},
        needs=("spark-master",),
    )


# In the order in which they start.
SERVERS = (MINIO, POSTGRESQL, SPARK_MASTER, MLFLOW, _spark_worker(1), _spark_worker(2))
