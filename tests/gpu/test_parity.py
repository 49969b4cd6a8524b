"""Tables made with a GPU are those that a CPU makes. Without a device the same is done with the plugin in explain-only mode."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse import gpu
from lakehouse.errors import SessionError
from tests.gpu.parity import compared, differences, through

# The first builds every table, the second updates them.
SPANS = (("2013-01-01", "2013-01-03"), ("2013-01-04", "2013-01-05"))


@pytest.fixture(scope="module")
def by_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cpu")
    through(root, SPANS)
    return root


@pytest.mark.slow
def test_the_plugin_beside_a_run_changes_nothing(by_cpu: Path, tmp_path: Path) -> None:
    through(tmp_path, SPANS, gpu="explain")
    assert differences(by_cpu, tmp_path) == []
    said = "".join(log.read_text(errors="replace") for log in (tmp_path / "logs").glob("*.log"))
    assert "<SaveIntoDataSourceCommand> will run on GPU" in said


@pytest.mark.slow
def test_every_table_is_the_same_by_gpu(by_cpu: Path, tmp_path: Path) -> None:
    try:
        gpu.require_device()
    except SessionError as error:
        pytest.skip(str(error))
    through(tmp_path, SPANS, gpu="on")
    assert differences(by_cpu, tmp_path) == []


@pytest.mark.parametrize(
    ("left", "right", "differs"),
    [
        (pa.array([1.0, None, float("nan")]), pa.array([1.0 + 1e-12, None, float("nan")]), ""),
        (pa.array([1.0, 2.0]), pa.array([1.0, 2.00001]), "1 rows differ: row 1: 2.0, 2.00001"),
        (pa.array([1.0, None]), pa.array([1.0, float("nan")]), "1 rows differ: row 1: None, nan"),
        (pa.array(["a", None]), pa.array(["a", None]), ""),
        (pa.array(["a", None]), pa.array([None, None], pa.string()), "1 rows differ: row 0: 'a', None"),
        (pa.array([[1], [2]]), pa.array([[1], [3]]), "1 rows differ: row 1: [2], [3]"),
        (pa.array([7, 8, 9]), pa.array([7, 0, 0]), "2 rows differ: row 1: 8, 0; row 2: 9, 0"),
    ],
)
def test_a_difference_is_found_and_named(left: pa.Array, right: pa.Array, differs: str) -> None:
    found = list(compared("t.c", pa.chunked_array([left]), pa.chunked_array([right])))
    assert found == ([f"t.c: {differs}"] if differs else [])
