"""NVIDIA's RAPIDS plugin for Spark: its properties, its jar, and whether there is a device for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from filelock import FileLock

from lakehouse.errors import SessionError
from lakehouse.settings import CONF, Settings

PLUGIN: Final = "com.nvidia:rapids-4-spark_2.13:26.08.1"
# As the plugin's own documents have it for its CUDA 12 jar, which Maven's plain name means.
LEAST_DRIVER: Final = 525
LEAST_CAPABILITY: Final = 7.0
_OFF = "Without LAKEHOUSE_GPU everything runs on the CPU; LAKEHOUSE_GPU=explain says what would run on a GPU."


def overlays(settings: Settings) -> list[Path]:
    """The files of properties that come on top of the profile's, in their order."""
    if not settings.gpu:
        return []
    if settings.gpu == "explain":
        return [CONF / "spark" / "gpu.conf", CONF / "spark" / "gpu-explain.conf"]
    own = CONF / "spark" / f"gpu-{settings.spark}"
    return [CONF / "spark" / "gpu.conf", *([own] if own.exists() else [])]


def plugin_jar(settings: Settings) -> Path:
    """The plugin's jar, brought from Maven Central once (1 GB).

    Raises:
        SessionError: it is not where the settings say, or cannot be fetched.
    """
    if settings.gpu_jar:
        if not settings.gpu_jar.is_file():
            raise SessionError(f"The RAPIDS plugin is not at {settings.gpu_jar} (LAKEHOUSE_GPU_JAR).")
        return settings.gpu_jar
    group, artifact, version = PLUGIN.split(":")
    jar = Path.home() / ".cache" / "lakehouse" / f"{artifact}-{version}.jar"
    jar.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(jar.with_suffix(".lock")):
        if not jar.exists():
            _fetch(jar, f"{group}_{artifact}-{version}.jar")
    return jar


def _fetch(jar: Path, name: str) -> None:
    """Have Spark resolve it, without a session."""
    import pyspark

    submit = Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent, "bin", "spark-submit")
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
        (nothing := Path(folder, "nothing.py")).touch()
        asked = ["--packages", PLUGIN, "--conf", f"spark.jars.ivySettings={CONF / 'spark' / 'ivy.xml'}"]
        command = [str(submit), *asked, "--conf", f"spark.jars.ivy={folder}", str(nothing)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = Path(folder, "jars", name)
        if done.returncode or not found.exists():
            last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise SessionError(
                f"The RAPIDS plugin ({PLUGIN}, 1 GB) cannot be fetched from Maven Central: {last} Where there is no network, "
                "bring the jar and say where it is: LAKEHOUSE_GPU_JAR."
            )
        found.rename(jar)


def require_device() -> None:
    """Check that this machine has a GPU that the plugin can use: without one it would end the JVM without a word.

    Raises:
        SessionError: it has none, or its driver or the device is too old.
    """
    if not shutil.which("nvidia-smi"):
        raise SessionError(f"No NVIDIA driver is installed here (there is no nvidia-smi). {_OFF}")
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    devices = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
    if done.returncode or not devices:
        said = (done.stdout + done.stderr).strip() or "it names no device"
        raise SessionError(f"No GPU can be used here; nvidia-smi says: {said}. {_OFF}")
    for name, driver, capability in devices:
        if int(re.match(r"\d*", driver)[0] or 0) < LEAST_DRIVER:  # type: ignore[index]
            raise SessionError(
                f"The NVIDIA driver {driver} is too old for the RAPIDS plugin: {LEAST_DRIVER} is needed. {_OFF}"
            )
        if float(capability) < LEAST_CAPABILITY:
            raise SessionError(
                f"The RAPIDS plugin cannot use {name} (compute capability {capability}): {LEAST_CAPABILITY} is needed. {_OFF}"
            )
