"""What a JVM is started with: conf/spark alone says."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest

from lakehouse import session
from lakehouse.errors import SessionError
from lakehouse.settings import CONF


def test_nothing_of_the_environment_reaches_the_jvm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = {
        "JAVA_TOOL_OPTIONS": "-javaagent:evil.jar", "PYSPARK_SUBMIT_ARGS": "--jars evil.jar pyspark-shell", "SPARK_CONF_DIR": "/evil",
        "SPARK_SUBMIT_OPTS": "-Devil=canary", "HADOOP_CONF_DIR": "/evil", "SPARK_DIST_CLASSPATH": "/evil/*",
    }  # fmt: skip
    monkeypatch.setattr(os, "environ", {**told, "AWS_ENDPOINT_URL": "http://127.0.0.1:9000"})
    with caplog.at_level(logging.WARNING):
        session._shut_out_the_environment()
    assert os.environ == {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "SPARK_CONF_DIR": str(CONF / "spark")}
    assert all(f"{name} is left aside" in caplog.text for name in told)
    assert "canary" not in caplog.text
    session.start_jvm_with("lakehouse/logstore/conditional-put-logstore.jar")
    assert os.environ["PYSPARK_SUBMIT_ARGS"].endswith("/conditional-put-logstore.jar pyspark-shell")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.hadoop.fs.s3a.performance.flags", "delete, create"),
        ("spark.hadoop.fs.s3a.performance.flags", "*"),
        ("spark.hadoop.fs.s3a.create.performance", "true"),
        ("spark.delta.logStore.s3a.impl", "io.delta.storage.S3SingleDriverLogStore"),
        ("", ""),
    ],
)
def test_what_would_lose_commits_in_a_bucket_is_refused(name: str, value: str) -> None:
    told = session.properties(CONF / "spark" / "minio.conf") | ({name: value} if name else {})
    running: Any = SimpleNamespace(sparkContext=SimpleNamespace(getConf=lambda: told))
    if not name:
        session._require_safe_commits(running)
        return
    with pytest.raises(SessionError, match=f"Two writers at once would lose commits with {name}="):
        session._require_safe_commits(running)
