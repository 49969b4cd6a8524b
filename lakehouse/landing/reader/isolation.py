"""Files that end the process which reads them, for example by taking all memory. Other processes find them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader.reading import FileReading
from lakehouse.landing.reader.task import StagingTask

REASON = "cannot be read: the process that reads it is killed. It may need too much memory"


def find_fatal_files(task: StagingTask) -> list[LandedFile]:
    """Return the files that end a process which reads them. Halves of the files are tried until each is alone."""
    files = task.files
    if not files or _survives(task):
        return []
    if len(files) == 1:
        return list(files)
    middle = len(files) // 2
    halves = (replace(task, files=files[:middle]), replace(task, files=files[middle:]))
    return [file for half in halves for file in find_fatal_files(half)]


def _survives(task: StagingTask) -> bool:
    """Return whether a process of its own can read the files, whatever they hold."""
    command = [sys.executable, "-m", __name__]
    return subprocess.run(command, input=task.to_json(), text=True, check=False).returncode >= 0


def _read_all(task: StagingTask) -> None:
    for file in task.files:
        try:
            for _ in FileReading(task.source, file, task.landing, task.stamp, {}, task.limits).read_batches():
                pass
        except Exception:  # noqa: S112  # Such a file is rejected when it is staged.
            continue


if __name__ == "__main__":
    _read_all(StagingTask.from_json(sys.stdin.read()))
