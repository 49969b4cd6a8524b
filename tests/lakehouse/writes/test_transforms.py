"""History from snapshots: a key that a snapshot lacks was deleted. tests/faults shuffles snapshots and kills runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lakehouse.definitions.write_modes import History
from tests.fleet import HEADER, SNAPSHOTS, buses, fleet, raw_buses, snapshot
from tests.lakes import TestLake

Lakes = Callable[..., TestLake]
JAN, FEB, MAR, APR = (f"2024-0{month}-01" for month in (1, 2, 3, 4))
VERSIONS = [
    ("B1", 50, JAN, APR, False),
    ("B1", 51, APR, None, True),
    ("B2", 60, JAN, FEB, False),
    ("B2", 61, FEB, APR, False),
    ("B3", 70, JAN, FEB, False),
    ("B3", 70, APR, None, True),
    ("B4", 80, MAR, None, True),
]
FLEETS = [
    (JAN, 3, 180),
    (FEB, 2, 111),
    (MAR, 3, 191),
    (APR, 3, 201),
]


def versions(lake: TestLake) -> list[tuple[Any, ...]]:
    rows = lake.rows("clean.buses", "plate", "seats", "valid_from", "valid_to", "is_current")
    return sorted((t, s, str(since), str(until) if until else None, now) for t, s, since, until, now in rows)


def fleets(lake: TestLake) -> list[tuple[Any, ...]]:
    return [(str(day), *rest) for day, *rest in lake.rows("mart.fleet")]


def test_a_key_missing_from_a_snapshot_is_deleted(make_lake: Lakes) -> None:
    lake = make_lake(raw_buses, buses, fleet)
    for name, content in SNAPSHOTS.items():
        lake.land("raw.buses", name, content)
        lake.run()
    assert versions(lake) == VERSIONS
    assert fleets(lake) == FLEETS
    assert [row[0] for row in lake.quarantine("clean.buses", "rules")] == [["parsed: seats"]]
    version = lake.version("clean.buses")
    lake.land("raw.buses", "buses_2024-05-01.csv", HEADER + "\n")
    lake.run()
    assert versions(lake) == VERSIONS, "a snapshot without rows deletes nothing"
    assert (lake.version("clean.buses") or 0) - (version or 0) <= 1


def test_a_snapshot_with_unreadable_keys_deletes_nothing(make_lake: Lakes) -> None:
    lake = make_lake(raw_buses, buses)
    lake.land("raw.buses", "buses_2024-01-01.csv", snapshot(B1="50", B2="60"))
    lake.land("raw.buses", "buses_2024-02-01.csv", snapshot(B2="60") + "B1,City\n")
    lake.land("raw.buses", "buses_2024-03-01.csv", snapshot(B2="60", NA="70"))
    lake.run()
    assert versions(lake) == [("B1", 50, JAN, None, True), ("B2", 60, JAN, None, True)]
    lake.land("raw.buses", "buses_2024-04-01.csv", snapshot(B2="60", B3="70"))
    lake.run()
    assert versions(lake) == [("B1", 50, JAN, APR, False), ("B2", 60, JAN, None, True), ("B3", 70, APR, None, True)]


def test_without_snapshots_nothing_is_deleted(make_lake: Lakes) -> None:
    lake = make_lake(raw_buses, replace(buses, write=History(effective_column="snapshot_date")))
    for name, content in SNAPSHOTS.items():
        lake.land("raw.buses", name, content)
    lake.run()
    assert {row[0] for row in versions(lake) if row[4]} == {"B1", "B2", "B3", "B4"}


def test_a_corrected_snapshot_replaces_the_first(make_lake: Lakes) -> None:
    lake = make_lake(raw_buses, buses)
    lake.land("raw.buses", "buses_2024-01-01.csv", snapshot(B1="50", B2="60"))
    lake.land("raw.buses", "buses_2024-02-01.csv", snapshot(B1="50", B2="60", B3="70"))
    lake.run()
    lake.land("raw.buses", "buses_2024-02-01.csv", snapshot(B1="51", B2="60"))
    lake.run()
    assert versions(lake) == [("B1", 50, JAN, FEB, False), ("B1", 51, FEB, None, True), ("B2", 60, JAN, None, True)]
