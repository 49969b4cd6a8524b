"""A GPU builds the same tables as a CPU. Without a device, the plugin runs in explain-only mode."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.compare import list_differences
from benchmarks.submitted import read_operators
from lakehouse.engine.spark import rapids
from lakehouse.errors import SessionError
from tests.example.gpu.parity import through

pytestmark = pytest.mark.timeout(1200)  # four runs of commands as users start them
# The first builds every table, the second updates them.
SPANS = (("2013-01-01", "2013-01-03"), ("2013-01-04", "2013-01-05"))


@pytest.fixture(scope="module")
def by_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cpu")
    through(root, SPANS)
    return root


def test_the_plugin_beside_a_run_changes_nothing(by_cpu: Path, tmp_path: Path) -> None:
    both = through(tmp_path, SPANS, gpu="explain")
    assert list_differences(by_cpu / "lake", tmp_path / "lake") == []
    for output in both:
        assert "<SaveIntoDataSourceCommand> will run on GPU" in output
        # The plugin cannot process plans with observed metrics (CollectMetrics).
        assert "Failed to apply GPU overrides" not in output
        # Of all operators in all executed plans, those of adaptive execution and of Delta's log included.
        marks = Counter(re.findall(r"^ *([*!])(?:Exec|Command) <", output, re.MULTILINE))
        assert marks["*"] > 0.8 * marks.total(), marks
    ran = read_operators(tmp_path)
    assert [on_gpu for on_gpu, _ in ran] == [0, 0], "explain-only runs all operators on the CPU"
    assert all(operators > 100 for _, operators in ran), ran


def test_every_table_is_the_same_by_gpu(by_cpu: Path, tmp_path: Path) -> None:
    try:
        rapids.require_device()
    except SessionError as error:
        pytest.skip(str(error))
    through(tmp_path, SPANS, gpu="on")
    assert list_differences(by_cpu / "lake", tmp_path / "lake") == []
    # A plan that the plugin fails to make runs on the CPU, without a failure.
    for on_gpu, operators in read_operators(tmp_path):
        # Up to half of them are Delta's own, which look at its log.
        assert on_gpu > operators / 3, f"of {operators} operators {on_gpu} were the GPU's"
