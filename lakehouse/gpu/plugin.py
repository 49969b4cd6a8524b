"""The jar of NVIDIA's RAPIDS plugin for Spark."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from filelock import FileLock

from lakehouse.errors import SessionError
from lakehouse.settings import Settings

logger = logging.getLogger(__name__)
PLUGIN: Final = "com.nvidia:rapids-4-spark_2.13:26.08.1"


def get_jar_path(settings: Settings) -> Path:
    """Return where the plugin's jar is, or where `fetch_jar` will put it."""
    if settings.gpu_jar:
        return settings.gpu_jar
    _, artifact, version = PLUGIN.split(":")
    return Path.home() / ".cache" / "lakehouse" / f"{artifact}-{version}.jar"


def fetch_jar(settings: Settings) -> Path:
    """Return the plugin's jar; fetch it (1 GB) from Maven Central if it is not in the cache.

    Raises:
        SessionError: The jar is not where the settings say, or cannot be fetched.
    """
    jar = get_jar_path(settings)
    if settings.gpu_jar:
        if not jar.is_file():
            raise SessionError(f"The RAPIDS plugin is not at {jar} (LAKEHOUSE_GPU_JAR).")
        return jar
    jar.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(jar.with_suffix(".lock")):
        if not jar.exists():
            logger.warning("The RAPIDS plugin (1 GB) is fetched once, into %s: this takes some minutes", jar.parent)
            _fetch(jar, settings.find_spark_files("ivy.xml")[-1])
    return jar


def _fetch(jar: Path, repositories: Path) -> None:
    group, artifact, version = PLUGIN.split(":")
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
        process = fetch_packages(PLUGIN, Path(folder), "--conf", f"spark.jars.ivySettings={repositories}")
        fetched = Path(folder, "jars", f"{group}_{artifact}-{version}.jar")
        if process.returncode or not fetched.exists():
            raise SessionError(
                f"The RAPIDS plugin ({PLUGIN}, 1 GB) cannot be fetched from Maven Central: {find_error_line(process)}. "
                "Where there is no network, bring the jar and say where it is: LAKEHOUSE_GPU_JAR."
            )
        fetched.rename(jar)


def fetch_packages(packages: str, ivy: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Have spark-submit fetch packages and their dependencies into a folder, without starting a session.

    Args:
        packages: Maven coordinates, as in spark.jars.packages.
        ivy: The folder; it is created if it does not exist.
        options: More options of spark-submit.
    """
    import pyspark

    submit = Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent, "bin", "spark-submit")
    ivy.mkdir(exist_ok=True)
    (script := ivy / "nothing.py").touch()
    command = [str(submit), "--packages", packages, *options, "--conf", f"spark.jars.ivy={ivy}", str(script)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    script.unlink()
    return process


def find_error_line(process: subprocess.CompletedProcess[str]) -> str:
    """Return the line with the error from all that Ivy and Java printed during `fetch_packages`."""
    lines = process.stderr.strip().splitlines() or ["nothing was said"]
    return next((line for line in lines if "Exception" in line), lines[-1])
