"""Where the plugin's jar comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lakehouse.errors import SessionError
from lakehouse.gpu.plugin import fetch_jar, find_error_line
from lakehouse.settings import load


def test_a_jar_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"The RAPIDS plugin is not at .*none.jar \(LAKEHOUSE_GPU_JAR\)"):
        fetch_jar(load(gpu_jar=tmp_path / "none.jar", gpu="on"))


def test_the_line_with_the_error_is_found() -> None:
    output = (
        "downloading\nException in thread main: unresolved dependency: com.nvidia\n\tat org.apache\n"
        "Shutdown hook called\n"
    )
    process = subprocess.CompletedProcess([], 1, "", output)
    assert find_error_line(process) == "Exception in thread main: unresolved dependency: com.nvidia"
