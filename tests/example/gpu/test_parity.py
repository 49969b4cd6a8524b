"""A GPU builds the same tables as a CPU. Without a device the plugin runs in explain-only mode."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.compare import list_differences
from benchmarks.submitted import read_operators
from lakehouse.errors import SessionError
from lakehouse.gpu.device import require_device
from tests.example.gpu.parity import run_spans

pytestmark = pytest.mark.timeout(1200)  # four runs of commands as users start them
# The first builds every table, the second updates them.
SPANS = (("2013-01-01", "2013-01-03"), ("2013-01-04", "2013-01-05"))


@pytest.fixture(scope="module")
def by_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cpu")
    run_spans(root, SPANS)
    return root


def test_the_plugin_beside_a_run_changes_nothing(by_cpu: Path, tmp_path: Path) -> None:
    outputs = run_spans(tmp_path, SPANS, gpu="explain")
    assert list_differences(by_cpu / "lake", tmp_path / "lake") == []
    for output in outputs:
        assert "<SaveIntoDataSourceCommand> will run on GPU" in output
        # As for any plan with DataFrame.observe (CollectMetrics).
        assert "Failed to apply GPU overrides" not in output
        # All operators that the plugin knows in all executed plans, with adaptive execution's and those of Delta's log.
        marks = Counter(re.findall(r"^ *([*!])(?:Exec|Command) <", output, re.MULTILINE))
        assert marks["*"] > 0.8 * marks.total(), marks
    executed = read_operators(tmp_path)
    assert [on_gpu for on_gpu, _ in executed] == [0, 0], "explain-only leaves all to the CPU"
    assert all(operators > 100 for _, operators in executed), executed


def test_every_table_is_the_same_by_gpu(by_cpu: Path, tmp_path: Path) -> None:
    try:
        require_device()
    except SessionError as error:
        pytest.skip(str(error))
    run_spans(tmp_path, SPANS, gpu="on")
    assert list_differences(by_cpu / "lake", tmp_path / "lake") == []
    # Where the plugin fails to make a plan, the CPU runs it without an error.
    for on_gpu, operators in read_operators(tmp_path):
        # Up to half of the operators read Delta's own log.
        assert on_gpu > operators / 3, f"of {operators} operators {on_gpu} were the GPU's"
