"""Type 2 from snapshots: what one leaves out was deleted. tests/faults has them in any order, doubled, with runs killed between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lakehouse.definitions.write_modes import History
from tests.fleet import HEADER, SNAPSHOTS, bronze_planes, fleet, silver_planes, snapshot
from tests.lakes import TestLake

Lakes = Callable[..., TestLake]
JAN, FEB, MAR, APR = (f"2013-0{month}-01" for month in (1, 2, 3, 4))
VERSIONS = [
    ("N1", 50, JAN, APR, False), ("N1", 51, APR, None, True),
    ("N2", 60, JAN, FEB, False), ("N2", 61, FEB, APR, False),
    ("N3", 70, JAN, FEB, False), ("N3", 70, APR, None, True),
    ("N4", 80, MAR, None, True),
]  # fmt: skip
FLEETS = [
    (JAN, 3, 180),
    (FEB, 2, 111),
    (MAR, 3, 191),
    (APR, 3, 201),
]


def versions(lake: TestLake) -> list[tuple[Any, ...]]:
    rows = lake.rows("silver.planes", "tailnum", "seats", "valid_from", "valid_to", "is_current")
    return sorted((t, s, str(since), str(until) if until else None, now) for t, s, since, until, now in rows)


def fleets(lake: TestLake) -> list[tuple[Any, ...]]:
    return [(str(day), *rest) for day, *rest in lake.rows("gold.fleet")]


def test_what_a_snapshot_leaves_out_was_deleted(lake_of: Lakes) -> None:
    lake = lake_of(bronze_planes, silver_planes, fleet)
    for name, content in SNAPSHOTS.items():
        lake.land("bronze.planes", name, content)
        lake.run()
    assert versions(lake) == VERSIONS
    assert fleets(lake) == FLEETS
    assert [row[0] for row in lake.quarantine("silver.planes", "rules")] == [["readable: seats"]]
    version = lake.version("silver.planes")
    lake.land("bronze.planes", "planes_2013-05-01.csv", HEADER + "\n")
    lake.run()
    assert versions(lake) == VERSIONS, "a snapshot without rows deletes nothing"
    assert (lake.version("silver.planes") or 0) - (version or 0) <= 1


def test_a_row_that_could_be_anybodys_lets_its_snapshot_delete_nothing(lake_of: Lakes) -> None:
    lake = lake_of(bronze_planes, silver_planes)
    lake.land("bronze.planes", "planes_2013-01-01.csv", snapshot(N1="50", N2="60"))
    lake.land("bronze.planes", "planes_2013-02-01.csv", snapshot(N2="60") + "N1,2004,Jet\n")
    lake.land("bronze.planes", "planes_2013-03-01.csv", snapshot(N2="60", NA="70"))
    lake.run()
    assert versions(lake) == [("N1", 50, JAN, None, True), ("N2", 60, JAN, None, True)]
    lake.land("bronze.planes", "planes_2013-04-01.csv", snapshot(N2="60", N3="70"))
    lake.run()
    assert versions(lake) == [("N1", 50, JAN, APR, False), ("N2", 60, JAN, None, True), ("N3", 70, APR, None, True)]


def test_without_snapshots_nothing_is_deleted(lake_of: Lakes) -> None:
    lake = lake_of(bronze_planes, replace(silver_planes, write=History(effective="snapshot_date")))
    for name, content in SNAPSHOTS.items():
        lake.land("bronze.planes", name, content)
    lake.run()
    assert {row[0] for row in versions(lake) if row[4]} == {"N1", "N2", "N3", "N4"}


def test_a_snapshot_corrected_under_its_name_takes_the_place_of_the_first(lake_of: Lakes) -> None:
    lake = lake_of(bronze_planes, silver_planes)
    lake.land("bronze.planes", "planes_2013-01-01.csv", snapshot(N1="50", N2="60"))
    lake.land("bronze.planes", "planes_2013-02-01.csv", snapshot(N1="50", N2="60", N3="70"))
    lake.run()
    lake.land("bronze.planes", "planes_2013-02-01.csv", snapshot(N1="51", N2="60"))
    lake.run()
    assert versions(lake) == [("N1", 50, JAN, FEB, False), ("N1", 51, FEB, None, True), ("N2", 60, JAN, None, True)]
