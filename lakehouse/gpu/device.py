"""The GPUs of this machine, and whether RAPIDS can use one of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Final, NamedTuple

from lakehouse.errors import SessionError


class DeviceRequirement(NamedTuple):
    """The oldest device and driver that a library supports.

    Attributes:
        user: The library, as error messages name it.
        driver: The lowest major version of NVIDIA's driver.
        capability: The lowest compute capability.
    """

    user: str
    driver: int
    capability: float


# From the plugin's documentation, for its CUDA 12 jar: the one that Maven's artifact without a classifier is.
PLUGIN_REQUIREMENT: Final = DeviceRequirement("the RAPIDS plugin", 525, 7.0)
# From RAPIDS' documentation, for its CUDA 13 packages.
TRAINING_REQUIREMENT: Final = DeviceRequirement("training with RAPIDS", 580, 7.5)
CPU_HINT: Final = (
    "Without LAKEHOUSE_GPU and LAKEHOUSE_GPU_TRAINING Spark and scikit-learn run on the CPU; "
    "LAKEHOUSE_GPU=explain says what would run on a GPU."
)
_TIMEOUT_SECONDS: Final = 60


def require_device(requirement: DeviceRequirement = PLUGIN_REQUIREMENT) -> None:
    """Check that at least one GPU meets the requirement.

    Without one the plugin would end the JVM without a message. CUDA_VISIBLE_DEVICES limits which GPUs are looked at.

    Raises:
        SessionError: There is no GPU, or the driver or every GPU is too old.
    """
    if not shutil.which("nvidia-smi"):
        raise SessionError(f"No NVIDIA driver is installed here (there is no nvidia-smi). {CPU_HINT}")
    devices = _list_devices(os.environ.get("CUDA_VISIBLE_DEVICES"))
    problems = [problem for device in devices if (problem := _find_problem(*device, requirement))]
    if len(problems) == len(devices):
        raise SessionError(f"{' '.join(dict.fromkeys(problems))} {CPU_HINT}")


def _list_devices(visible: str | None) -> list[tuple[str, str, str]]:
    """Return name, driver version and compute capability of each GPU; `visible` None means all."""
    if visible == "":
        raise SessionError(f"CUDA_VISIBLE_DEVICES is empty, which hides each GPU. Name a GPU, or unset it. {CPU_HINT}")
    command = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    if visible is not None:
        command.append(f"--id={visible}")
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise SessionError(f"No GPU can be used here: nvidia-smi has not answered for a minute. {CPU_HINT}") from None
    devices = re.findall(r"^(.+), (\d+(?:\.\d+)*), (\d+\.\d+)$", process.stdout, re.MULTILINE)
    if process.returncode or not devices:
        output = (process.stdout + process.stderr).strip() or "it names no device"
        raise SessionError(f"No GPU can be used here; nvidia-smi says: {output}. {CPU_HINT}")
    return devices


def _find_problem(name: str, driver: str, capability: str, requirement: DeviceRequirement) -> str:
    """Return why a device does not meet the requirement; empty if it does."""
    if int(driver.split(".", 1)[0]) < requirement.driver:
        return f"The NVIDIA driver {driver} is too old for {requirement.user}: {requirement.driver} is needed."
    if float(capability) < requirement.capability:
        return (
            f"{name} (compute capability {capability}) is too old for {requirement.user}: "
            f"{requirement.capability} is needed."
        )
    return ""
