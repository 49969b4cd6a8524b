"""A small disk that a test fills."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.stack import skip_missing


@contextmanager
def mount_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size in memory, such as 64m."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        skip_missing("no file system can be mounted on this machine")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(disk: Path, spare_bytes: int) -> Path:
    """Fill a disk up to the spare bytes, and return the file to delete."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 12)):
            pass
    with ballast.open("rb+") as file:
        file.truncate(ballast.stat().st_size - spare_bytes)
    return ballast
