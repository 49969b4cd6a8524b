"""Spark sessions: their properties, and the start of their JVM."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse.errors import SessionError, get_first_line
from lakehouse.resources import PACKAGES
from lakehouse.settings import Settings
from lakehouse.storage.s3 import S3Path

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)
# Variables by which a JVM takes options, or Spark jars and settings.
JVM_VARIABLES = (
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "SPARK_SUBMIT_OPTS",
    "SPARK_JAVA_OPTS",
    "SPARK_CLASSPATH",
    "SPARK_DIST_CLASSPATH",
    "SPARK_EXTRA_CLASSPATH",
    "SPARK_HOME",
    "SPARK_CONF_DIR",
    "HADOOP_CONF_DIR",
    "YARN_CONF_DIR",
    "PYSPARK_SUBMIT_ARGS",
)
# Spark's classes in Java's own form (`lakehouse.engine.spark.class_archive`). Java is silent where it cannot use them.
ARCHIVE = Path(sys.prefix, "share", "lakehouse", "classes.jsa")
ARCHIVE_IS_SILENT = "-Xlog:cds*=off"
# No folder: on the class path, where Spark puts it, one with files would keep Java from its archive.
NO_FOLDER = str(ARCHIVE.with_name("nothing"))
_OWN_SUBMIT_VALUES = [NO_FOLDER]  # what an earlier session of this process put there
# Without the log store: on the class path that class would not see Delta's jars, which are added later.
LOCAL_FILES_JAR = Path(str(files("lakehouse.engine.spark"))) / "logstore" / "posix-local-files.jar"
LOG_STORE = "lakehouse.ConditionalPutLogStore"
LOCAL_FILES = "lakehouse.PosixLocalFileSystem"
JAVA_HINT = (
    "Spark needs Java 17 or 21. Install it (Debian and Ubuntu: apt-get install openjdk-17-jre-headless or "
    "openjdk-21-jre-headless; Fedora: dnf install java-21-openjdk-headless; macOS: brew install openjdk@17, then "
    'export JAVA_HOME="$(brew --prefix openjdk@17)"; any system: a Temurin 17 or 21 package) or point JAVA_HOME at one.'
)


def read_properties(file: Path) -> dict[str, str]:
    """Return the settings in a Spark properties file, as spark-submit reads them."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    pairs = (line.split(None, 1) for line in lines if line and not line.startswith("#"))
    return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs}


@contextmanager
def spark_session(settings: Settings, log: Path | None = None) -> Iterator[SparkSession]:
    """Start Spark with the profile's properties, and stop it in the end.

    In a process that spark-submit started, spark-submit's properties override the profile's.

    Args:
        log: A file for the JVM's output (Spark's and Ivy's).

    Raises:
        SessionError: Java is missing, Spark did not start, or a requirement of an entry point is not met.
    """
    java_home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (java_home and Path(java_home, "bin", "java").exists()):
        raise SessionError(f"No Java was found. {JAVA_HINT}")
    from pyspark.sql import SparkSession

    if not is_submitted():
        _ignore_environment()
    for prepare in settings.spark_additions.before_session:
        prepare()
    builder = SparkSession.builder
    for key, value in _read_profile_properties(settings).items():
        if key == "spark.jars":
            add_jvm_jars(_locate_jars(value, settings))
        else:
            builder = builder.config(key, value)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    with _redirect_stderr(log):
        try:
            spark = builder.getOrCreate()
        except Exception as error:  # py4j raises bare exceptions where the JVM does not come up
            raise SessionError(_describe_start_failure(error, settings, log)) from error
    try:
        if isinstance(settings.root, S3Path):
            _require_safe_commits(spark)
        yield spark
    finally:
        spark.stop()
        if not is_submitted() and not ARCHIVE.exists():
            _start_making_archive()


def _start_making_archive() -> None:
    """Make the archive of classes in a process that goes on after this one. Without it, sessions start later."""
    command = [sys.executable, "-m", "lakehouse.engine.spark.class_archive"]
    with suppress(OSError):
        ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _describe_start_failure(error: Exception, settings: Settings, log: Path | None) -> str:
    from py4j.protocol import Py4JJavaError
    from pyspark.errors.exceptions.captured import CapturedException

    reason, advice = get_first_line(error), f"{JAVA_HINT} The first start also needs a network, for Spark's packages."
    if isinstance(error, Py4JJavaError):  # py4j's text about the call precedes Java's
        reason = str(error).splitlines()[1].removeprefix(": ")
    if isinstance(error, (Py4JJavaError, CapturedException)):  # Java runs
        advice = ""
    if settings.spark_master:
        advice = f"Check that {settings.spark_master} (spark_master) runs."
    where = f"; its output is in {log}" if log else ""
    return f"Spark did not start: {reason.rstrip('.')}{where}. {advice}".strip()


def is_submitted() -> bool:
    """Return whether spark-submit started this process, and with it the JVM."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _ignore_environment() -> None:
    """Take the JVM's options, jars and classes from conf/spark alone, not from the environment."""
    for name in JVM_VARIABLES:
        if os.environ.pop(name, None) not in (None, *_OWN_SUBMIT_VALUES):
            logger.warning("%s is ignored: conf/spark alone configures the JVM. Move its value there.", name)
    os.environ["SPARK_CONF_DIR"] = NO_FOLDER


def _log_settings(settings: Settings) -> str:
    """Return the option for the file of log settings, whatever the working directory."""
    return f"-Dlog4j2.configurationFile={settings.find_spark_files('log4j2.properties')[-1].as_uri()}"


def get_archive_options() -> str:
    """Return the options by which a JVM reads its classes from the archive; none without an archive."""
    return f'"-XX:SharedArchiveFile={ARCHIVE}" {ARCHIVE_IS_SILENT}' if ARCHIVE.exists() else ""


def redirect_query_loggers(handler: logging.Handler) -> None:
    """Send what Spark's Python client logs about failed queries to the handler alone.

    Before it raises a query's error, it also logs the error, as JSON, to the console.
    """
    if find_spec("pyspark") is None:
        return
    from pyspark.logger import PySparkLogger

    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        query_logger = PySparkLogger.getLogger(name)
        query_logger.handlers, query_logger.propagate = [handler], False


def _require_safe_commits(spark: SparkSession) -> None:
    """Check the properties that keep two writers from the same commit: spark-submit's arguments may override them.

    Raises:
        SessionError: A property has another value.
    """
    conf = spark.sparkContext.getConf()
    flags = {flag.strip() for flag in (conf.get("spark.hadoop.fs.s3a.performance.flags") or "").split(",")}
    wrong = {
        "spark.hadoop.fs.s3a.performance.flags": bool({"create", "*"} & flags),
        "spark.hadoop.fs.s3a.create.performance": str(conf.get("spark.hadoop.fs.s3a.create.performance")) == "true",
        "spark.delta.logStore.s3a.impl": conf.get("spark.delta.logStore.s3a.impl") != LOG_STORE,
    }
    if values := ", ".join(f"{name}={conf.get(name)}" for name, is_wrong in wrong.items() if is_wrong):
        raise SessionError(
            f"Two writers at once would lose commits with {values}: leave these properties as they are in conf/spark."
        )


def _read_profile_properties(settings: Settings) -> dict[str, str]:
    """Return the profile's properties, less those of spark-submit, or with those that need a JVM of this process."""
    properties = compose_properties(settings)
    if is_submitted():
        from pyspark import SparkConf, SparkContext

        SparkContext._ensure_initialized()  # before that a SparkConf lacks the JVM's properties
        submitted = SparkConf()
        return {key: value for key, value in properties.items() if not submitted.contains(key)}
    return _add_jvm_properties(properties, settings)


def compose_submit_properties(settings: Settings) -> dict[str, str]:
    """Return the properties of a session for spark-submit. Their paths are absolute."""
    properties = _add_jvm_properties(compose_properties(settings), settings)
    if jars := properties.get("spark.jars"):
        properties["spark.jars"] = _locate_jars(jars, settings)
    return properties


def _add_jvm_properties(properties: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Add what a new JVM of this machine needs: log settings, the archive of classes, access to local files."""
    name = "spark.driver.extraJavaOptions"
    options = f"{properties.get(name, '')} {_log_settings(settings)} {get_archive_options()}"
    local = properties["spark.master"].startswith("local")
    local_files = get_local_file_properties(properties.get("spark.driver.extraClassPath")) if local else {}
    return {**properties, name: options.strip(), **local_files}


def _locate_jars(jars: str, settings: Settings) -> str:
    """Return the paths of jars. A relative one is in the project, or else beside the platform's package."""
    own = [settings.project / jar for jar in jars.split(",")]
    return ",".join(str(jar if jar.exists() else PACKAGES / jar.relative_to(settings.project)) for jar in own)


def get_local_file_properties(class_path: str | None = None) -> dict[str, str]:
    """Return the properties by which a JVM writes local files without a process for each (PosixLocalFileSystem.java).

    Args:
        class_path: Further entries of the JVM's class path.
    """
    if os.name != "posix":
        return {}
    return {
        "spark.driver.extraClassPath": os.pathsep.join([str(LOCAL_FILES_JAR), *([class_path] if class_path else [])]),
        "spark.hadoop.fs.file.impl": LOCAL_FILES,
        "spark.hadoop.fs.AbstractFileSystem.file.impl": f"{LOCAL_FILES}$Context",
    }


def compose_properties(settings: Settings) -> dict[str, str]:
    """Return the profile's properties with those that an entry point added to the settings."""
    properties = _read_files(settings, settings.spark)
    if settings.spark_master:
        properties["spark.master"] = settings.spark_master
    for overlay in settings.spark_additions.overlays:
        properties |= _read_files(settings, overlay)
    return {**properties, **settings.spark_additions.properties}


def _read_files(settings: Settings, name: str) -> dict[str, str]:
    """Return the properties of the platform's file of that name, overridden by those of the project's."""
    return {key: value for file in settings.find_spark_files(name) for key, value in read_properties(file).items()}


def add_jvm_jars(jars: str) -> None:
    """Start the JVM with the jars. As a property of the session they would replace those of spark.jars.packages."""
    _OWN_SUBMIT_VALUES.append(f"--jars {shlex.quote(jars)} pyspark-shell")
    os.environ.setdefault("PYSPARK_SUBMIT_ARGS", _OWN_SUBMIT_VALUES[-1])


@contextmanager
def _redirect_stderr(log: Path | None) -> Iterator[None]:
    """Let child processes write to ``log``: the JVM keeps the file descriptors of its start."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        original = os.dup(2)
        os.dup2(file.fileno(), 2)
    python_stderr, sys.stderr = sys.stderr, os.fdopen(os.dup(original), "w", buffering=1)
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = python_stderr
        os.dup2(original, 2)
        os.close(original)
