"""The servers of docker-compose.yml as processes of this machine; a test compares both."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deploy.prepare import Variables, create_buckets, create_databases


def _references(*keys: str) -> dict[str, str]:
    return {key: f"${{{key}}}" for key in keys}


S3 = _references("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
POSTGRES = _references("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD")


@dataclass(frozen=True)
class Server:
    """One server. ``${NAME}`` is replaced by a value of .env, ``${FOLDER}`` by the server's own folder."""

    name: str
    command: tuple[str, ...]
    # Keys of .env.
    ports: tuple[str, ...]
    # A server is healthy if this address answers with this word. PostgreSQL is healthy if its user can connect.
    health: str
    health_word: str = ""
    # The server's whole environment: it does not contain the secrets of other servers.
    variables: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    when_healthy: Callable[[Variables], None] | None = None
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
    when_healthy=create_buckets,
)

POSTGRESQL = Server(
    name="postgres",
    command=(
        *("postgres", "-D", "${FOLDER}", "-p", "${POSTGRES_PORT}"),
        *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
    ),
    ports=("POSTGRES_PORT",),
    health="postgresql://${PGHOST}:${PGPORT}",
    when_healthy=create_databases,
    # A fast shutdown does not wait for clients to disconnect.
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
    health_word="OK",
    variables={
        **S3,
        **POSTGRES,
        # Others can read this address. Therefore PGPASSWORD holds the password.
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
    health_word="ALIVE",
    # Spark's REST server would open another port (6066).
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
        # The worker names its master as soon as it is registered.
        health_word="spark://",
        # The executors inherit the access to S3.
        variables={**_SPARK, **S3},
        needs=("spark-master",),
    )


# In the order in which they start.
SERVERS = (MINIO, POSTGRESQL, SPARK_MASTER, MLFLOW, _spark_worker(1), _spark_worker(2))
