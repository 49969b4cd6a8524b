"""Type 2 from snapshots: deletions, order, doubles and failures between; whatever happens, the same tables in the end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from bronze.planes import planes as bronze_planes
from lakehouse import delta
from lakehouse.declare import History, Rebuild, table
from lakehouse.work import Work
from silver.planes import planes as silver_planes
from tests.lakes import TestLake

Lakes = Callable[..., TestLake]
HEADER = "tailnum,year,type,manufacturer,model,engines,seats,speed,engine"


def snapshot(**seats: str) -> str:
    return "\n".join([HEADER, *(f"{tail},2004,Jet,M,X,2,{count},NA,Fan" for tail, count in seats.items())]) + "\n"


SNAPSHOTS = {
    "planes_2013-01-01.csv": snapshot(N1="50", N2="60", N3="70"),
    "planes_2013-02-01.csv": snapshot(N1="50", N2="61"),  # N3 is gone
    "planes_2013-03-01.csv": snapshot(N1="many", N2="61", N4="80"),  # N1 is there, but cannot be read
    "planes_2013-04-01.csv": snapshot(N1="51", N3="70", N4="80"),  # N2 is gone, N3 is back
}
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


@table(
    "gold.fleet",
    columns={"day": "date", "planes": "bigint", "seats": "bigint"},
    write=Rebuild(),
    key=("day",),
    planes="silver.planes",
)
def fleet(planes: DataFrame) -> DataFrame:
    """One row per day on which the register changed: the aircraft that were in it then."""
    days = planes.select(F.explode(F.array("valid_from", "valid_to")).alias("day")).where("day IS NOT NULL").distinct()
    known = (F.col("valid_from") <= F.col("day")) & (F.col("valid_to").isNull() | (F.col("valid_to") > F.col("day")))
    return days.join(planes, known).groupBy("day").agg(F.count("*").alias("planes"), F.sum("seats").alias("seats"))


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


@pytest.mark.parametrize("seed", range(2))
def test_any_order_doubled_and_with_failures_between_ends_in_the_same_tables(
    lake_of: Lakes, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    lake = lake_of(bronze_planes, silver_planes, fleet)
    deliveries = [(name, content) for name, content in SNAPSHOTS.items() for _ in range(2)]
    chance.shuffle(deliveries)
    breaks = [(Work, "set_aside"), (delta, "merge"), (delta, "overwrite"), (delta, "_verify")]
    for number, (name, content) in enumerate(deliveries):
        # The same bytes under another name, in another folder.
        lake.land("bronze.planes", f"{number}/{name}", content)
        with monkeypatch.context() as changed:
            if chance.random() < 0.5:
                changed.setattr(*chance.choice(breaks), lambda *_, **__: 1 / 0)
            lake.attempt()
    lake.run()
    assert versions(lake) == VERSIONS
    assert fleets(lake) == FLEETS
    lake.run(full_refresh=True)
    assert versions(lake) == VERSIONS


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
