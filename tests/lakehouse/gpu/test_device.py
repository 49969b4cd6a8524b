"""Accepted devices and drivers, and the messages about the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lakehouse.errors import SessionError
from lakehouse.gpu.device import TRAINING_REQUIREMENT, require_device

H100 = "echo 'NVIDIA H100 80GB HBM3, 580.95.05, 9.0'"


@pytest.fixture(autouse=True)
def all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "No NVIDIA driver is installed here"),
        ("echo 'No devices were found'; exit 6", "nvidia-smi says: No devices were found"),
        ("exit 0", "nvidia-smi says: it names no device"),
        ("echo 'GRID A100X, 550.54.15, [N/A]'", r"nvidia-smi says: GRID A100X, 550.54.15, \[N/A\]"),
        ("echo 'Tesla P100, 550.54.15, 6.0'", r"Tesla P100 \(compute capability 6.0\) is too old .*: 7.0 is needed"),
        ("echo 'Tesla T4, 470.82.01, 7.5'", "driver 470.82.01 is too old .*: 525 is needed"),
    ],
)
def test_a_missing_or_old_device_is_refused(fake_smi: Callable[..., None], script: str, message: str) -> None:
    fake_smi(script)
    with pytest.raises(SessionError, match=message) as error:
        require_device()
    assert "run on the CPU; LAKEHOUSE_GPU=explain says" in str(error.value)


def test_one_sufficient_device_is_enough(fake_smi: Callable[..., None]) -> None:
    fake_smi(f"echo 'GT 1030, 580.95.05, 6.1'; {H100}")
    require_device()


def test_hidden_devices_are_refused(fake_smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    fake_smi(H100)
    with pytest.raises(SessionError, match="CUDA_VISIBLE_DEVICES is empty, which hides each GPU"):
        require_device()


def test_only_visible_devices_are_checked(fake_smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    fake_smi(f'[ "$3" = --id=1,2 ] && {H100}')
    require_device()


def test_training_needs_a_newer_driver(fake_smi: Callable[..., None]) -> None:
    fake_smi("echo 'NVIDIA A100, 570.86.10, 8.0'")
    require_device()
    with pytest.raises(SessionError, match=r"570.86.10 is too old for training with RAPIDS: 580 is needed"):
        require_device(TRAINING_REQUIREMENT)
