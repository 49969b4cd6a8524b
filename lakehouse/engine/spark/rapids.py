"""NVIDIA's RAPIDS plugin for Spark: its properties, its jar, and whether there is a device for it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from filelock import FileLock

from lakehouse.errors import SessionError, get_first_line
from lakehouse.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)
PLUGIN: Final = "com.nvidia:rapids-4-spark_2.13:26.08.1"


class GpuRequirement(NamedTuple):
    """The oldest driver and the least compute capability that will do."""

    feature: str
    driver: int
    capability: float


# As the plugin's own documents have it for its CUDA 12 jar, which Maven's plain name means; and as CUDA 13's for what trains.
PLUGIN_REQUIREMENT: Final = GpuRequirement("the RAPIDS plugin", 525, 7.0)
GPU_HINT = (
    "Without LAKEHOUSE_GPU and LAKEHOUSE_GPU_TRAINING Spark and scikit-learn run on the CPU; "
    "LAKEHOUSE_GPU=explain says what would run on a GPU."
)


def find_overlays(settings: Settings) -> list[Path]:
    """The files of properties that come on top of the profile's, in their order."""
    folder = settings.spark_conf.parent
    if not settings.gpu:
        return []
    if settings.gpu == "explain":
        return [folder / "gpu.conf", folder / "gpu-explain.conf"]
    names = ["gpu.conf", f"gpu-{settings.spark}", *(["gpu-training.conf"] if settings.gpu_training else [])]
    return [file for name in names if (file := folder / name).exists()]


def fetch_plugin_jar(settings: Settings) -> Path:
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
            logger.warning("The RAPIDS plugin (1 GB) is fetched once, into %s: this takes some minutes", jar.parent)
            _fetch(jar, f"{group}_{artifact}-{version}.jar", settings.spark_conf.with_name("ivy.xml"))
    return jar


def _fetch(jar: Path, name: str, repositories: Path) -> None:
    with tempfile.TemporaryDirectory(dir=jar.parent) as folder:
        done = resolve(PLUGIN, Path(folder), "--conf", f"spark.jars.ivySettings={repositories}")
        found = Path(folder, "jars", name)
        if done.returncode or not found.exists():
            raise SessionError(
                f"The RAPIDS plugin ({PLUGIN}, 1 GB) cannot be fetched from Maven Central: {find_error_line(done)}. Where there is no network, "
                "bring the jar and say where it is: LAKEHOUSE_GPU_JAR."
            )
        found.rename(jar)


def resolve(packages: str, ivy: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Have Spark bring packages and what they need to ``ivy``, as spark.jars.packages names them, without a session."""
    import pyspark

    submit = Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent, "bin", "spark-submit")
    ivy.mkdir(exist_ok=True)
    (nothing := ivy / "nothing.py").touch()
    command = [str(submit), "--packages", packages, *more, "--conf", f"spark.jars.ivy={ivy}", str(nothing)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    nothing.unlink()
    return done


def find_error_line(process: subprocess.CompletedProcess[str]) -> str:
    """Why `resolve` failed: of all that Ivy and Java print, the line with the error."""
    lines = process.stderr.strip().splitlines() or ["nothing was said"]
    return next((line for line in lines if "Exception" in line), lines[-1])


def require_device(requirement: GpuRequirement = PLUGIN_REQUIREMENT) -> None:
    """Check that there is a GPU that will do, among those that CUDA_VISIBLE_DEVICES names: without one the plugin would end the JVM
    without a word.

    Raises:
        SessionError: there is none, or the driver or each device is too old.
    """
    if not shutil.which("nvidia-smi"):
        raise SessionError(f"No NVIDIA driver is installed here (there is no nvidia-smi). {GPU_HINT}")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named == "":
        raise SessionError(f"CUDA_VISIBLE_DEVICES is empty, which hides each GPU: name one, or unset it. {GPU_HINT}")
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            [*asked, *([f"--id={named}"] if named is not None else [])],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SessionError(f"No GPU can be used here: nvidia-smi has not answered for a minute. {GPU_HINT}") from None
    devices = re.findall(r"^(.+), (\d+(?:\.\d+)*), (\d+\.\d+)$", done.stdout, re.MULTILINE)
    if done.returncode or not devices:
        said = (done.stdout + done.stderr).strip() or "it names no device"
        raise SessionError(f"No GPU can be used here; nvidia-smi says: {said}. {GPU_HINT}")
    wrong = [told for name, driver, able in devices if (told := _describe_shortfall(name, driver, able, requirement))]
    if len(wrong) == len(devices):
        raise SessionError(f"{' '.join(dict.fromkeys(wrong))} {GPU_HINT}")


def _describe_shortfall(name: str, driver: str, capability: str, requirement: GpuRequirement) -> str:
    if int(driver.split(".", 1)[0]) < requirement.driver:
        return f"The NVIDIA driver {driver} is too old for {requirement.feature}: {requirement.driver} is needed."
    if float(capability) < requirement.capability:
        return f"{name} (compute capability {capability}) is too old for {requirement.feature}: {requirement.capability} is needed."
    return ""


def explain_on_gpu(spark: SparkSession, dataset: Any) -> str:
    """Ask the plugin which operators of a plan would run on a GPU, without running the plan.

    Args:
        spark: a session that has the plugin's classes.
        dataset: the plan, as the JVM's Dataset.

    Returns:
        The plugin's text, one line for each operator and expression. Where the plugin cannot analyze the plan, one line in
        the same form says that all of it runs on the CPU.
    """
    from py4j.protocol import Py4JError

    jvm = spark._jvm
    assert jvm
    try:
        return str(jvm.com.nvidia.spark.rapids.ExplainPlan.explainPotentialGpuPlan(dataset, "ALL"))
    except Py4JError as error:
        return f"!Exec <Plan> all of it cannot run on GPU because {get_first_line(error)}"
