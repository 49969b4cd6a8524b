"""When RAPIDS is installed into a process that trains, and what a user reads where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lakehouse.ml.environment import describe_environment

H100 = "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0'"
# Stands in for RAPIDS: prints what was imported before, and installs itself into children as cuML does.
STAND_IN = """
import os, sys
def install():
    print("{name}", [module for module in ("pandas", "sklearn", "skops.io") if module in sys.modules], flush=True)
    if "{name}" == "cuml.accel": os.environ["CUML_ACCEL_ENABLED"] = "1"
"""
FOREST = "class RandomForestRegressor: pass"
# Printed when the process ends.
SHOW_AT_EXIT = """
import atexit, os
from lakehouse.ml.estimators import load_estimator
@atexit.register
def show():
    print(os.environ.get("CUML_ACCEL_ENABLED"))
    print(load_estimator("pyspark.ml.regression.RandomForestRegressor").__module__)
"""


@pytest.fixture
def rapids(tmp_path: Path) -> Path:
    for name in ("cudf.pandas", "cuml.accel"):
        (file := tmp_path.joinpath(*name.split(".")).with_suffix(".py")).parent.mkdir()
        file.write_text(STAND_IN.format(name=name))
    (package := tmp_path / "spark_rapids_ml").mkdir()
    (package / "regression.py").write_text(FOREST)
    return tmp_path


def run_command(rapids: Path, *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(rapids), os.environ.get("PYTHONPATH")]))
    settings = {"LAKEHOUSE_GPU_TRAINING": "on", "LAKEHOUSE_ROOT": str(rapids / "root"), "PYTHONPATH": path}
    command = [sys.executable, "-c", f"{before}\nfrom lakehouse.cli.main import main\nmain()", *words]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


def test_rapids_is_installed_before_pandas_and_scikit_learn(rapids: Path, fake_smi: Callable[..., None]) -> None:
    fake_smi(H100, os.environ["PATH"])
    process = run_command(rapids, "train", "no such model", before=SHOW_AT_EXIT)
    cudf, cuml, in_children, forest = process.stdout.splitlines()
    assert cudf == "cudf.pandas []"
    # skops looks at scikit-learn's classes before cuML has changed them.
    assert cuml.startswith("cuml.accel [") and "skops.io" in cuml
    assert in_children == "None", "cuML is installed into children, too"
    assert forest == "lakehouse.gpu.forest"
    assert "no such model" in process.stderr


def test_only_training_installs_rapids(rapids: Path, fake_smi: Callable[..., None]) -> None:
    fake_smi(H100, os.environ["PATH"])
    assert run_command(rapids, "tables", before=SHOW_AT_EXIT).stdout.splitlines()[-1] == "pyspark.ml.regression"
    assert not run_command(rapids, "tables").stdout.startswith("cudf")


def test_an_early_import_is_refused(rapids: Path, fake_smi: Callable[..., None]) -> None:
    fake_smi(H100, os.environ["PATH"])
    process = run_command(rapids, "train", before="import pandas")
    assert process.returncode == 2
    assert "pandas is imported already and cannot be moved to the GPU" in process.stderr


def test_a_gpu_without_memory_is_reported(rapids: Path, fake_smi: Callable[..., None]) -> None:
    fake_smi(H100, os.environ["PATH"])
    message = "CUDA error at: cuda_device.cpp:35: cudaErrorMemoryAllocation out of memory"
    (rapids / "cudf" / "pandas.py").write_text(f"def install(): raise RuntimeError({message!r})")
    process = run_command(rapids, "train")
    assert process.returncode == 2
    assert f"The GPU cannot be used: {message}. Where its memory is out, another process has it" in process.stderr


def test_training_refuses_an_old_driver(rapids: Path, fake_smi: Callable[..., None]) -> None:
    fake_smi("echo 'NVIDIA A100, 570.86.10, 8.0'", os.environ["PATH"])
    assert "570.86.10 is too old for training with RAPIDS: 580 is needed" in run_command(rapids, "train").stderr


def test_missing_packages_are_reported(tmp_path: Path) -> None:
    before = "import importlib.util; importlib.util.find_spec = lambda name: None"
    process = run_command(tmp_path, "train", before=before)
    assert process.returncode == 2
    assert "needs cudf, cuml, spark_rapids_ml: pip install 'lakehouse-medallion[gpu]'" in process.stderr


def test_a_recipe_names_the_gpu_of_rapids(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimpleNamespace(getDeviceProperties=lambda device: {"name": b"NVIDIA H100 80GB HBM3"})
    for is_available, device in ((True, "NVIDIA H100 80GB HBM3"), (False, "cpu")):
        cuda = SimpleNamespace(runtime=runtime)
        cupy = SimpleNamespace(is_available=lambda answer=is_available: answer, cuda=cuda)
        monkeypatch.setitem(sys.modules, "cupy", cupy)  # type: ignore[arg-type]
        assert describe_environment(())["device"] == device
