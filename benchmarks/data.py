"""Landing zones of any number of years: the real year, and copies of it with later dates.

A copied line differs from the real one only in its year and its `time_hour`. The local date and hour stay the same.
`time_hour` is the moment (UTC) at which New York's clocks show that hour in the new year. A few hours do not exist in
the new year: they are skipped in March, or repeated only in 2013. Their lines are left out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from flights.delivery import deliver

REAL_YEAR = 2013
NEW_YORK = ZoneInfo("America/New_York")
UTC_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
HOUR_LENGTH = len("2013-01-01T10:00:00Z")


def make_landing(landing: Path, years: int) -> None:
    """Deliver ``years`` years: the real one, and copies of it; existing files stay unchanged."""
    deliver(landing)
    for year in range(REAL_YEAR + 1, REAL_YEAR + years):
        for source in ("flights", "weather"):
            for real in sorted((landing / source).glob(f"{source}_{REAL_YEAR}-*.csv")):
                copy = real.with_name(real.name.replace(str(REAL_YEAR), str(year)))
                _copy_file(real, copy, year)


def deliver_next_day(landing: Path) -> Path:
    """Deliver the flights of the day after the last delivered one, and return the file."""
    last = max((landing / "flights").glob("flights_*.csv")).stem.removeprefix("flights_")
    day = date.fromisoformat(last) + timedelta(days=1)
    if (day.month, day.day) == (2, 29):  # not in the real year
        day += timedelta(days=1)
    real = landing / "flights" / f"flights_{day.replace(year=REAL_YEAR)}.csv"
    copy = real.with_name(f"flights_{day}.csv")
    _copy_file(real, copy, day.year)
    return copy


def _copy_file(real: Path, copy: Path, year: int) -> None:
    """Write the real file's lines with another year, unless the copy exists; no part of a file is left behind."""
    if copy.exists():
        return
    header, *lines = real.read_bytes().splitlines(keepends=True)
    unfinished = copy.with_name(f".{copy.name}")
    unfinished.write_bytes(header + b"".join(_shift_lines(lines, year)))
    os.replace(unfinished, copy)


def _shift_lines(lines: list[bytes], year: int) -> Iterator[bytes]:
    before, after = b"%d," % REAL_YEAR, b"%d," % year
    for line in lines:
        end = len(line.rstrip())
        hour = _shift_hour(line[end - HOUR_LENGTH : end], year)
        if hour is not None:
            # The first match is the column `year`: no number before it ends in it, and codes have no digits.
            yield line[: end - HOUR_LENGTH].replace(before, after, 1) + hour + line[end:]


@cache
def _shift_hour(hour: bytes, year: int) -> bytes | None:
    """Return the moment (UTC) at which New York's clocks show the same hour in another year; None if they never do."""
    moment = datetime.strptime(hour.decode(), UTC_FORMAT).replace(tzinfo=UTC)
    local = moment.astimezone(NEW_YORK).replace(year=year)
    shifted = local.astimezone(UTC)
    shown = shifted.astimezone(NEW_YORK)
    if (shown.replace(tzinfo=None), shown.fold) != (local.replace(tzinfo=None), local.fold):
        return None
    return shifted.strftime(UTC_FORMAT).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a landing zone of a number of years.")
    parser.add_argument("landing", type=Path)
    parser.add_argument("years", type=int)
    arguments = parser.parse_args()
    make_landing(arguments.landing, arguments.years)
