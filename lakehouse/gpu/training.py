"""RAPIDS trains models on a GPU."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

from lakehouse.engine.spark.rapids import GPU_HINT, GpuRequirement, require_device
from lakehouse.errors import SessionError, get_first_line
from lakehouse.settings import Settings

TRAINING_REQUIREMENT: Final = GpuRequirement("training with RAPIDS", 580, 7.5)
TRAINING_PACKAGES: Final = ("cudf", "cuml", "spark_rapids_ml")
# Has cuML put itself into every Python where it is set.
_CHILDREN: Final = "CUML_ACCEL_ENABLED"


def accelerate(settings: Settings) -> None:
    """Have pandas, scikit-learn and `random_forest` compute on the GPU what RAPIDS can, in all of this process: LAKEHOUSE_GPU_TRAINING=on.

    To be called before anything imports pandas or scikit-learn: whoever did so would go on with what it has.

    Raises:
        SessionError: there is no device for it or none of its memory is left, a package is missing, or one was imported too early.
    """
    if settings.gpu_training:
        _accelerate()


@cache
def _accelerate() -> None:
    if missing := [name for name in TRAINING_PACKAGES if find_spec(name) is None]:
        raise SessionError(
            f"LAKEHOUSE_GPU_TRAINING needs {', '.join(missing)}: pip install 'lakehouse[rapids]'. {GPU_HINT}"
        )
    require_device(TRAINING_REQUIREMENT)
    if early := [name for name in ("pandas", "sklearn") if name in sys.modules]:
        raise SessionError(
            f"{', '.join(early)} is imported already and cannot be moved to the GPU: call lakehouse.gpu.training.accelerate before."
        )
    # By default cuDF takes most of the device's memory for itself, which Spark's workers and PyTorch need as well.
    os.environ.setdefault("CUDF_PANDAS_RMM_MODE", "async")
    import cudf.pandas

    try:
        cudf.pandas.install()
    except (RuntimeError, MemoryError) as error:
        raise SessionError(
            f"The GPU cannot be used: {get_first_line(error)}. Where its memory is out, another process has it, as Spark's plugin takes all: "
            f"nvidia-smi names it. {GPU_HINT}"
        ) from error
    # Before cuML, whose classes skops would take for scikit-learn's: it would trust them, and no longer those that files name.
    import skops.io  # noqa: F401

    before = os.environ.get(_CHILDREN)
    import cuml.accel

    cuml.accel.install()
    # It would be put into every Python that this one starts: into Spark's daemon, too, which must not touch the GPU before it forks.
    os.environ.pop(_CHILDREN, None)
    if before is not None:
        os.environ[_CHILDREN] = before


def random_forest() -> Any:
    """MLlib's random forest of numbers, or the one of Spark RAPIDS ML where this process was put on the GPU: estimators alike."""
    if _accelerate.cache_info().currsize:
        from lakehouse.gpu import forest

        return forest.RandomForestRegressor
    from pyspark.ml.regression import RandomForestRegressor

    return RandomForestRegressor
