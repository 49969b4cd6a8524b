"""A model trained on a GPU is as good as one trained on a CPU. Without a device, these comparisons are skipped."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from benchmarks.submitted import environment
from lakehouse.engine.spark import rapids
from lakehouse.errors import SessionError
from lakehouse.gpu import training
from tests.example.gpu.trained import FOREST, PARAMS
from tests.paths import PROJECT

# Allowed difference of a metric. Another seed changes a forest's by 0.001 and a network's by 0.002. Trees use the CPU.
TOLERANCE = {"trees": 1e-9, "network": 0.005, "spark_forest": 0.005, FOREST: 0.005}


def trained(name: str, by: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.example.gpu.trained", name]
    # PyTorch uses every visible GPU.
    env = environment(LAKEHOUSE_GPU_TRAINING="on") if by == "gpu" else environment() | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["by"] == ("cpu" if name == "trees" else by)
    metrics: dict[str, float] = result["metrics"]
    return metrics


def test_second_training_is_identical() -> None:
    first, second = trained(FOREST, "cpu"), trained(FOREST, "cpu")
    assert first == second
    assert first["roc_auc"] > 0.9


@pytest.mark.parametrize("name", [*PARAMS, FOREST])
def test_gpu_model_is_as_good(name: str) -> None:
    try:
        rapids.require_device(training.TRAINING_REQUIREMENT)
    except SessionError as error:
        pytest.skip(str(error))
    if missing := [name for name in (*training.TRAINING_PACKAGES, "torch") if find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} are not installed: pip install 'lakehouse[torch,rapids]'")
    assert trained(name, "gpu") == pytest.approx(trained(name, "cpu"), abs=TOLERANCE[name])
