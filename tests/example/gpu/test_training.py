"""A model trained on a GPU is as good as one trained on a CPU. Without a device, the CPU trains twice instead."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from benchmarks.submitted import environment
from lakehouse.errors import SessionError
from lakehouse.gpu.device import TRAINING_REQUIREMENT, require_device
from lakehouse.gpu.training import PACKAGES
from tests.example.gpu.trained import FOREST, PARAMS
from tests.paths import PROJECT

# How much a metric may differ. Another seed makes 0.001 for a forest, 0.002 for a network. Trees train on the CPU.
TOLERANCE = {"trees": 1e-9, "network": 0.005, "spark_forest": 0.005, FOREST: 0.005}


def train(name: str, device: str) -> dict[str, float]:
    """Train a model on the cpu or the gpu in a process of its own, and return its metrics."""
    command = [sys.executable, "-m", "tests.example.gpu.trained", name]
    # PyTorch takes a GPU wherever it sees one.
    env = environment(LAKEHOUSE_GPU_TRAINING="on") if device == "gpu" else environment() | {"CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["device"] == ("cpu" if name == "trees" else device)
    metrics: dict[str, float] = result["metrics"]
    return metrics


def test_training_twice_gives_the_same_metrics() -> None:
    first, second = train(FOREST, "cpu"), train(FOREST, "cpu")
    assert first == second
    assert first["roc_auc"] > 0.9


@pytest.mark.parametrize("name", [*PARAMS, FOREST])
def test_gpu_model_is_as_good(name: str) -> None:
    try:
        require_device(TRAINING_REQUIREMENT)
    except SessionError as error:
        pytest.skip(str(error))
    if missing := [package for package in (*PACKAGES, "torch") if find_spec(package) is None]:
        pytest.skip(f"{', '.join(missing)} are not installed: pip install 'lakehouse-medallion[torch,gpu]'")
    assert train(name, "gpu") == pytest.approx(train(name, "cpu"), abs=TOLERANCE[name])
