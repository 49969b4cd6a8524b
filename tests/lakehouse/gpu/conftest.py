"""Fixtures of the GPU's tests: they stand in for the machine's nvidia-smi, and need no GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import write_program

FakeSmi = Callable[..., None]


@pytest.fixture
def fake_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSmi:
    """Put a shell script on the PATH as nvidia-smi; an empty script means none. By default nothing else is there."""

    def install(script: str, rest_of_path: str = "") -> None:
        if script:
            write_program(tmp_path / "nvidia-smi", script)
        monkeypatch.setenv("PATH", f"{tmp_path}:{rest_of_path}" if rest_of_path else str(tmp_path))

    return install
