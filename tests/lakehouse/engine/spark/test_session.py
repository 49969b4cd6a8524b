"""Settings of a session's JVM: they come from conf/spark alone."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pyspark.sql import SparkSession

from lakehouse.engine.spark import session
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.errors import SessionError
from lakehouse.settings import load
from tests.paths import CONF, PROJECT


def test_nothing_of_the_environment_reaches_the_jvm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    variables = {
        "JAVA_TOOL_OPTIONS": "-javaagent:evil.jar",
        "PYSPARK_SUBMIT_ARGS": "--jars evil.jar pyspark-shell",
        "SPARK_CONF_DIR": "/evil",
        "SPARK_SUBMIT_OPTS": "-Devil=canary",
        "HADOOP_CONF_DIR": "/evil",
        "SPARK_DIST_CLASSPATH": "/evil/*",
    }
    monkeypatch.setattr(os, "environ", {**variables, "AWS_ENDPOINT_URL": "http://127.0.0.1:9000"})
    with caplog.at_level(logging.WARNING):
        session._ignore_environment()
    assert os.environ == {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "SPARK_CONF_DIR": session.NO_FOLDER}
    assert all(f"{name} is ignored" in caplog.text for name in variables)
    assert "canary" not in caplog.text
    session.add_jvm_jars(str(PROJECT / "lakehouse/engine/spark/logstore/conditional-put-logstore.jar"))
    assert os.environ["PYSPARK_SUBMIT_ARGS"].endswith("/conditional-put-logstore.jar pyspark-shell")


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        pytest.param(session.NO_FOLDER, 0, id="class path of a session"),
        pytest.param(str(CONF / "spark"), 1, id="settings on the class path"),
    ],
)
def test_java_loads_spark_classes_from_the_archive(spark: SparkSession, folder: str, code: int) -> None:
    read_property: Any = spark.sparkContext._jvm.java.lang.System.getProperty  # type: ignore[union-attr]
    own, _spark_conf, *jars = read_property("java.class.path").split(":")
    assert own == str(session.LOCAL_FILES_JAR)
    java = str(Path(read_property("java.home"), "bin", "java"))
    options = ["-Xshare:on", f"-XX:SharedArchiveFile={session.ARCHIVE}", "-cp", ":".join([own, folder, *jars])]
    process = subprocess.run([java, *options, "-version"], capture_output=True, text=True, check=False)
    assert process.returncode == code, process.stdout + process.stderr


def test_without_an_archive_java_has_no_archive_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert str(session.ARCHIVE) in session.get_archive_options()
    monkeypatch.setattr(session, "ARCHIVE", tmp_path / "classes.jsa")
    assert session.get_archive_options() == ""


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
def test_settings_that_lose_commits_are_rejected(name: str, value: str) -> None:
    settings = session.read_properties(CONF / "spark" / "minio.conf") | ({name: value} if name else {})
    running: Any = SimpleNamespace(sparkContext=SimpleNamespace(getConf=lambda: settings))
    if not name:
        session._require_safe_commits(running)
        return
    with pytest.raises(SessionError, match=f"Two writers at once would lose commits with {name}="):
        session._require_safe_commits(running)


def test_a_session_starts_and_stops_once() -> None:
    threads, running = [], SimpleNamespace(stopped=0)

    @contextmanager
    def start() -> Iterator[Any]:
        threads.append(threading.current_thread())
        yield running
        running.stopped += 1

    lazy = SparkEngine(start)
    lazy.stop()
    assert (threads, running.stopped) == ([], 0)
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(lazy.get_session) for _ in range(4)]
        while not all(future.done() for future in futures):
            lazy.wait([future for future in futures if not future.done()])
    assert {id(future.result()) for future in futures} == {id(running)}
    lazy.stop()
    assert (threads, running.stopped) == ([threading.main_thread()], 1)


def test_a_cancelled_session_does_not_start() -> None:
    lazy = SparkEngine(lambda: pytest.fail("Spark was started"))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lazy.get_session)
        lazy.cancel()
        with pytest.raises(SessionError, match="the run was cancelled"):
            future.result()


def test_start_failures_name_java_only_without_java(spark: SparkSession, tmp_path: Path) -> None:
    java: Any = spark.sparkContext._jvm.java  # type: ignore[union-attr]
    for fails, reason in (
        (lambda: java.lang.Class.forName("no.Plugin"), "java.lang.ClassNotFoundException: no.Plugin"),
        (lambda: java.util.UUID.fromString("none"), "Invalid UUID string: none"),
    ):
        with pytest.raises(Exception) as raised:
            fails()
        message = session._describe_start_failure(raised.value, load(spark_master=""), tmp_path / "run.log")
        assert message == f"Spark did not start: {reason}; its output is in {tmp_path / 'run.log'}."
    assert session._describe_start_failure(RuntimeError("no"), load(spark_master=""), None).startswith(
        "Spark did not start: no. Spark needs Java 17 or 21."
    )


def test_local_files_start_no_processes(spark: SparkSession, tmp_path: Path) -> None:
    """Hadoop's own file system starts a process for each permission and link."""
    context: Any = spark.sparkContext
    hadoop, conf = context._jvm.org.apache.hadoop.fs, context._jsc.hadoopConfiguration()
    folder = hadoop.Path(tmp_path.as_uri())
    files, commits = folder.getFileSystem(conf), hadoop.FileContext.getFileContext(folder.toUri(), conf)
    children = psutil.Process(context._jvm.java.lang.ProcessHandle.current().pid())
    before = children.cpu_times()
    for number in range(50):
        new = hadoop.Path(folder, f"{number}.tmp")
        files.create(new, True).close()
        commits.rename(new, hadoop.Path(folder, str(number)), context._gateway.new_array(hadoop.Options.Rename, 0))
    after = children.cpu_times()
    assert (after.children_user, after.children_system) == (before.children_user, before.children_system)
    assert len([*tmp_path.glob("[0-9]*")]) == 50
    files.setPermission(hadoop.Path(folder, "7"), hadoop.permission.FsPermission("640"))
    (tmp_path / "link").symlink_to(tmp_path / "7")
    assert (tmp_path / "7").stat().st_mode & 0o7777 == 0o640
    assert commits.getFileLinkStatus(hadoop.Path(folder, "link")).getLen() == 0
