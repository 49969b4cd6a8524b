"""Landing zones of any number of years: the real one, and made ones with its dates put forward.

A made line differs from the real one in its year and its `time_hour` alone: the local date and hour stay, and the moment in
UTC is the one at which New York's clocks show them in the new year. The few hours that the new year does not have (skipped in
March, or repeated in 2013 alone) are left out.
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


def make(landing: Path, years: int) -> None:
    """Deliver the real year, and the years after it up to ``years`` in all; files already there are left as they are."""
    deliver(landing)
    for year in range(REAL_YEAR + 1, REAL_YEAR + years):
        for source in ("flights", "weather"):
            for real in sorted((landing / source).glob(f"{source}_{REAL_YEAR}-*.csv")):
                _put(real, real.with_name(real.name.replace(str(REAL_YEAR), str(year))), year)


def one_day(landing: Path) -> Path:
    """Deliver the flights of the day after the last one that is there; returns the file."""
    last = max((landing / "flights").glob("flights_*.csv")).stem.removeprefix("flights_")
    day = date.fromisoformat(last) + timedelta(days=1)
    if (day.month, day.day) == (2, 29):  # not in the real year
        day += timedelta(days=1)
    real = landing / "flights" / f"flights_{day.replace(year=REAL_YEAR)}.csv"
    made = real.with_name(f"flights_{day}.csv")
    _put(real, made, day.year)
    return made


def _put(real: Path, made: Path, year: int) -> None:
    """Write the real file's lines as those of another year, whole or not at all, unless the file is there."""
    if made.exists():
        return
    header, *lines = real.read_bytes().splitlines(keepends=True)
    unfinished = made.with_name(f".{made.name}")
    unfinished.write_bytes(header + b"".join(_put_forward(lines, year)))
    os.replace(unfinished, made)


def _put_forward(lines: list[bytes], year: int) -> Iterator[bytes]:
    before, after = b"%d," % REAL_YEAR, b"%d," % year
    for line in lines:
        end = len(line.rstrip())
        made = _in_year(line[end - HOUR_LENGTH : end], year)
        if made is not None:
            # The first match is the column `year`: no number before it ends in it, and codes have no digits.
            yield line[: end - HOUR_LENGTH].replace(before, after, 1) + made + line[end:]


@cache
def _in_year(hour: bytes, year: int) -> bytes | None:
    """The moment (UTC) of another year at which New York's clocks show what they show at this one; None if never."""
    moment = datetime.strptime(hour.decode(), UTC_FORMAT).replace(tzinfo=UTC)
    local = moment.astimezone(NEW_YORK).replace(year=year)
    made = local.astimezone(UTC)
    again = made.astimezone(NEW_YORK)
    if (again.replace(tzinfo=None), again.fold) != (local.replace(tzinfo=None), local.fold):
        return None
    return made.strftime(UTC_FORMAT).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a landing zone of so many years.")
    parser.add_argument("landing", type=Path)
    parser.add_argument("years", type=int)
    arguments = parser.parse_args()
    make(arguments.landing, arguments.years)
