"""Train models on a GPU by RAPIDS."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec
from typing import Final

from lakehouse.errors import SessionError, get_first_line
from lakehouse.gpu import device
from lakehouse.ml.estimators import replace_estimator
from lakehouse.settings import Settings

PACKAGES: Final = ("cudf", "cuml", "spark_rapids_ml")
# While it is set, cuML installs itself into every Python that starts.
_CUML_IN_CHILDREN: Final = "CUML_ACCEL_ENABLED"


def accelerate(settings: Settings) -> None:
    """Have RAPIDS compute what it can of pandas, scikit-learn and MLlib in this process: LAKEHOUSE_GPU_TRAINING=on.

    Call it before anything imports pandas or scikit-learn: code that imported them would keep the CPU's.

    Raises:
        SessionError: There is no GPU, the GPU has no memory left, a package is missing, or one was imported too early.
    """
    if settings.gpu_training:
        _accelerate()


@cache
def _accelerate() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise SessionError(
            f"LAKEHOUSE_GPU_TRAINING needs {', '.join(missing)}: pip install 'lakehouse-medallion[gpu]'. "
            f"{device.CPU_HINT}"
        )
    device.require_device(device.TRAINING_REQUIREMENT)
    if early := [name for name in ("pandas", "sklearn") if name in sys.modules]:
        raise SessionError(
            f"{', '.join(early)} is imported already and cannot be moved to the GPU. "
            "Call lakehouse.gpu.training.accelerate before."
        )
    _install_cudf()
    _install_cuml()
    replace_estimator("pyspark.ml.regression.RandomForestRegressor", "lakehouse.gpu.forest.RandomForestRegressor")


def _install_cudf() -> None:
    # By default cuDF takes most of the GPU's memory for itself, which Spark's workers and PyTorch need as well.
    os.environ.setdefault("CUDF_PANDAS_RMM_MODE", "async")
    import cudf.pandas

    try:
        cudf.pandas.install()
    except (RuntimeError, MemoryError) as error:
        raise SessionError(
            f"The GPU cannot be used: {get_first_line(error)}. Where its memory is out, another process has it, as "
            f"Spark's plugin takes all: nvidia-smi names it. {device.CPU_HINT}"
        ) from error


def _install_cuml() -> None:
    # skops trusts the classes that it finds in scikit-learn: after cuML they are cuML's, and not those that files name.
    import skops.io  # noqa: F401

    before = os.environ.get(_CUML_IN_CHILDREN)
    import cuml.accel

    cuml.accel.install()
    # Spark's daemon is such a child, and must not touch the GPU before it forks.
    os.environ.pop(_CUML_IN_CHILDREN, None)
    if before is not None:
        os.environ[_CUML_IN_CHILDREN] = before
