"""The hour that clocks skip and the one that they repeat: the same instants in every time zone of the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from flights.delivery import deliver
from tests.faults.compare import Content, content
from tests.lakes import TestLake
from tests.paths import PROJECT

MODULES = ("bronze.flights", "bronze.airports", "silver.flights", "silver.airports")
# Lord Howe puts its clocks forward by half an hour.
ZONES = ("UTC", "America/New_York", "Australia/Lord_Howe")
GAP, REPEATED = date(2013, 3, 10), date(2013, 11, 3)
# Invented rows: by schedule, no flight leaves New York in the hours that are skipped or repeated.
HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
    "origin,dest,air_time,distance,hour,minute,time_hour"
)
NIGHT = f"""{HEADER}
2013,3,10,159,159,0,421,410,11,XX,1,N1,JFK,PBI,130,1028,1,59,2013-03-10T06:00:00Z
2013,3,10,305,300,5,600,600,0,XX,2,N1,JFK,PBI,130,1028,3,0,2013-03-10T07:00:00Z
2013,3,10,NA,230,NA,NA,500,NA,XX,3,N1,JFK,PBI,NA,1028,2,30,2013-03-10T07:00:00Z
2013,11,3,130,130,0,300,300,0,XX,4,N1,JFK,PBI,130,1028,1,30,2013-11-03T05:00:00Z
2013,11,3,130,130,0,300,300,0,XX,5,N1,JFK,PBI,130,1028,1,30,2013-11-03T06:00:00Z
2013,11,3,2359,50,-51,200,155,5,XX,6,N1,JFK,PBI,130,1028,0,50,2013-11-03T04:00:00Z
"""
# Flight 3 leaves at half past two, which no clock showed: it is quarantined.
INSTANTS = {  # scheduled departure and arrival, departure and arrival
    1: ("03-10 06:59", "03-10 08:10", "03-10 06:59", "03-10 08:21"),
    2: ("03-10 07:00", "03-10 10:00", "03-10 07:05", "03-10 10:00"),
    4: ("11-03 05:30", "11-03 08:00", "11-03 05:30", "11-03 08:00"),
    5: ("11-03 06:30", "11-03 08:00", "11-03 06:30", "11-03 08:00"),
    6: ("11-03 04:50", "11-03 05:55", "11-03 03:59", "11-03 06:00"),
}
RUN = f"""
import sys, time
from pathlib import Path
from lakehouse.definitions import graph
from lakehouse.deltalog.commit_record import Run
from lakehouse.catalog import Catalog
from lakehouse.plan.steps import RunRequest
from lakehouse.runs.scheduler import run_tables
from lakehouse.engine.spark.engine import SparkEngine
from tests.sessions import small_session
time.tzset()
lake = Catalog(graph.load({MODULES}), Path(sys.argv[1]))
spark = small_session()
zone = spark.sparkContext._jvm.java.util.TimeZone.getDefault().getID()
engine = SparkEngine.wrap_session(spark)
report = run_tables(engine, lake, lake.graph.select(), RunRequest(), Run("run", ""), parallel=2)
print([result.describe_failure() for result in report.results if result.error] or zone)
spark.stop()
"""


@pytest.fixture(scope="module")
def lakes(make_lake: Callable[..., TestLake]) -> dict[str, TestLake]:
    """Build a lake in each zone, in a process with its own JVM."""
    lakes = {zone: make_lake(modules=MODULES, name=zone.replace("/", "_")) for zone in ZONES}
    first = lakes[ZONES[0]]
    for day in (GAP, REPEATED):
        deliver(first.root / "landing", since=day, until=day)
    first.land("bronze.flights", "flights_by_night.csv", NIGHT)
    for lake in lakes.values():
        if lake is not first:
            shutil.copytree(first.root / "landing", lake.root / "landing")
    running = {zone: start_in(zone, lake.root) for zone, lake in lakes.items()}
    for zone, process in running.items():
        output, error = process.communicate(timeout=300)
        assert output.strip() == zone, output + error[-2000:]
    return lakes


def start_in(zone: str, root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(root)],
        cwd=PROJECT,
        env={**os.environ, "TZ": zone, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_zone_builds_same_tables(lakes: dict[str, TestLake]) -> None:
    contents: dict[str, Content] = {zone: content(lake) for zone, lake in lakes.items()}
    assert len(contents["UTC"]["silver.flights"]) > 1500
    for zone in ZONES[1:]:
        assert contents[zone] == contents["UTC"], zone
    for zone, lake in lakes.items():
        (pinned,) = lake.history("bronze.flights")
        assert {at for (at,) in lake.rows("bronze.flights", "_ingested_at")} == {
            datetime.fromisoformat(pinned.created_at)
        }, zone


def test_instants_equal_manual_results(lakes: dict[str, TestLake]) -> None:
    columns = ("flight", "carrier", "sched_dep_utc", "sched_arr_utc", "dep_utc", "arr_utc")
    expected = {
        flight: tuple(datetime.strptime(f"2013-{time}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC) for time in instants)
        for flight, instants in INSTANTS.items()
    }
    for lake in lakes.values():
        night = [row for row in lake.rows("silver.flights", *columns) if row[1] == "XX"]
        assert {flight: instants for flight, _, *instants in night} == {f: [*i] for f, i in expected.items()}
        quarantined = [row for row in lake.originals("silver.flights") if row["carrier"] == "XX"]
        assert [row["flight"] for row in quarantined] == ["3"]
