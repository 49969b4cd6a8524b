"""The environment of a fit: interpreter, packages, device and threads, all of which the model's numbers depend on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

# Modules that fit models, and the packages that install them.
FITTING_PACKAGES: Final = {
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "pyspark": "pyspark",
    "delta": "delta-spark",
    "cudf": "cudf-cu13",
    "cuml": "cuml-cu13",
    "spark_rapids_ml": "spark-rapids-ml",
}


def describe_environment(requirements: Iterable[str]) -> dict[str, Any]:
    """Describe this process after a fit, with the versions of ``requirements`` and of the imported FITTING_PACKAGES."""
    from joblib import cpu_count

    imported = [package for module, package in FITTING_PACKAGES.items() if module in sys.modules]
    return {
        "python": platform.python_version(),
        "packages": {name: find_installed_version(name) for name in sorted({*requirements, *imported})},
        "device": _describe_device(),
        "threads": os.environ.get("OMP_NUM_THREADS") or str(cpu_count()),
    }


def find_installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _describe_device() -> str:
    """Return the name of the GPU that an imported library computes on; "cpu" without one."""
    if (cupy := sys.modules.get("cupy")) and cupy.is_available():  # RAPIDS computes with cupy
        return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    if torch := sys.modules.get("torch"):
        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"
    if tensorflow := sys.modules.get("tensorflow"):
        for gpu in tensorflow.config.list_physical_devices("GPU"):
            return str(tensorflow.config.experimental.get_device_details(gpu).get("device_name", gpu.name))
    return "cpu"
