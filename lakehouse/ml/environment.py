"""What a model is fitted on: the interpreter, the packages, the device and the threads, all of which its numbers depend on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

# Modules that fit, and the packages that they are installed by.
FITTING_PACKAGES: Final = {
    "numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn", "torch": "torch", "tensorflow": "tensorflow", "keras": "keras",
    "pyspark": "pyspark", "delta": "delta-spark",
    "cudf": "cudf-cu13", "cuml": "cuml-cu13", "spark_rapids_ml": "spark-rapids-ml",
}  # fmt: skip


def describe_environment(requirements: Iterable[str]) -> dict[str, Any]:
    """That of this process, after a fitting: versions of the ``requirements`` and of what else of `FITTING` was imported for it."""
    from joblib import cpu_count

    imported = [package for module, package in FITTING_PACKAGES.items() if module in sys.modules]
    return {
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in sorted({*requirements, *imported})},
        "device": _device(),
        "threads": os.environ.get("OMP_NUM_THREADS") or str(cpu_count()),
    }


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    """The name of the GPU that a library which was imported computes on; "cpu" without one."""
    if (cupy := sys.modules.get("cupy")) and cupy.is_available():  # RAPIDS computes with it
        return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    if torch := sys.modules.get("torch"):
        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"
    if tensorflow := sys.modules.get("tensorflow"):
        for gpu in tensorflow.config.list_physical_devices("GPU"):
            return str(tensorflow.config.experimental.get_device_details(gpu).get("device_name", gpu.name))
    return "cpu"
