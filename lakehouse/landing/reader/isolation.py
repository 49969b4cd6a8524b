"""Files that end the process which reads them, for example by taking all memory. Other processes find them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader.compression import UnpackLimits
from lakehouse.landing.reader.conformance import BatchStamp
from lakehouse.landing.reader.reading import FileReading
from lakehouse.storage.location import Location
from lakehouse.storage.s3 import S3Path

REASON = "cannot be read: the process that reads it is killed. It may need too much memory"


def find_fatal_files(
    source: Source, files: Sequence[LandedFile], landing: Location, limits: UnpackLimits
) -> list[LandedFile]:
    """Return the files that end a process which reads them. Halves of the files are tried until each is alone."""
    if not files or _survives(source, files, landing, limits):
        return []
    if len(files) == 1:
        return list(files)
    middle = len(files) // 2
    halves = (files[:middle], files[middle:])
    return [file for half in halves for file in find_fatal_files(source, half, landing, limits)]


def _survives(source: Source, files: Sequence[LandedFile], landing: Location, limits: UnpackLimits) -> bool:
    """Return whether a process of its own can read the files, whatever they hold."""
    task = {
        "source": {
            "name": source.name,
            "landing": source.landing,
            "format": source.format,
            "columns": dict(source.columns),
            "options": dict(source.options),
            "header_names": dict(source.header_names),
            "path_columns": source.path_columns,
        },
        "contract": asdict(source.contract),
        "files": [asdict(file) for file in files],
        "landing": str(landing),
        "limits": asdict(limits),
    }
    command = [sys.executable, "-m", __name__]
    return subprocess.run(command, input=json.dumps(task), text=True, check=False).returncode >= 0


def _read_all(task: str) -> None:
    fields = json.loads(task)
    declared = source(**fields["source"], contract=Contract(**fields["contract"]))
    place = fields["landing"]
    landing = S3Path.parse(place) if place.startswith("s3://") else Path(place)
    limits, stamp = UnpackLimits(**fields["limits"]), BatchStamp(0, datetime.now(UTC))
    for file in fields["files"]:
        try:
            for _ in FileReading(declared, LandedFile(**file), landing, stamp, {}, limits).read_batches():
                pass
        except Exception:  # noqa: S112  # Such a file is rejected when it is staged.
            continue


if __name__ == "__main__":
    _read_all(sys.stdin.read())
