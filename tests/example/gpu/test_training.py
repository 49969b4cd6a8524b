"""What trains on a GPU does as well as on a CPU. Without a device a second training on the CPU stands in for it, so that the harness is tried."""

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

# What a metric may differ by. Another seed alone makes 0.001 of a forest's, 0.002 of a network's; these trees train on the CPU in any case.
TOLERANCE = {"trees": 1e-9, "network": 0.005, "spark_forest": 0.005, FOREST: 0.005}


def trained(name: str, by: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.example.gpu.trained", name]
    # PyTorch takes a GPU wherever it sees one.
    env = environment(LAKEHOUSE_GPU_TRAINING="on") if by == "gpu" else environment() | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["by"] == ("cpu" if name == "trees" else by)
    metrics: dict[str, float] = found["metrics"]
    return metrics


def test_a_model_does_the_same_twice() -> None:
    first, second = trained(FOREST, "cpu"), trained(FOREST, "cpu")
    assert first == second
    assert first["roc_auc"] > 0.9


@pytest.mark.parametrize("name", [*PARAMS, FOREST])
def test_a_model_does_as_well_by_gpu(name: str) -> None:
    try:
        rapids.require_device(training.TRAINING_REQUIREMENT)
    except SessionError as error:
        pytest.skip(str(error))
    if missing := [one for one in (*training.TRAINING_PACKAGES, "torch") if find_spec(one) is None]:
        pytest.skip(f"{', '.join(missing)} are not installed: pip install 'lakehouse[torch,rapids]'")
    assert trained(name, "gpu") == pytest.approx(trained(name, "cpu"), abs=TOLERANCE[name])
