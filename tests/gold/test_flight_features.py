"""Tests of the features of flights: their values, and that no event after the cut-off changes them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from flights.grain import FLIGHT_KEY
from flights.keys import ORIGINS
from gold._features_state import WEATHER
from gold.flight_features import COLUMNS, flight_features
from lakehouse.definitions.validation import find_problems
from tests.wide_tables import side_by_side

FLIGHT_TYPES = (
    "flight_date date, carrier string, flight int, origin string, dest string, tailnum string, "
    "sched_dep_utc timestamp, sched_arr_utc timestamp, dep_utc timestamp, arr_utc timestamp, "
    "dep_delay_min int, arr_delay_min int, distance_mi int"
)
WEATHER_TYPES = "origin string, observed_at timestamp, weather_date date, " + ", ".join(f"{c} double" for c in WEATHER)
PLANE_TYPES = "tailnum string, year_built int, seats int, valid_from date, valid_to date"

Frames = Callable[..., DataFrame]


def test_declaration_has_no_problems() -> None:
    assert find_problems(flight_features) == []


def test_features_two_hours_before_departure(frame: Frames, spark: SparkSession) -> None:
    flights = frame(
        side_by_side(
            """
            flight_date | carrier | flight | origin | dest | tailnum | sched_dep_utc       | sched_arr_utc
            2013-01-02  | B6      | 1      | JFK    | BOS  | N1      | 2013-01-02 12:00:00 | 2013-01-02 13:00:00
            2013-01-02  | B6      | 2      | JFK    | BOS  | N1      | 2013-01-02 17:00:00 | 2013-01-02 18:00:00
            2013-01-02  | B6      | 3      | JFK    | BOS  | N2      | 2013-01-02 15:00:00 | 2013-01-02 16:00:00
            2013-01-02  | B6      | 4      | JFK    | BOS  | -       | 2013-01-02 14:30:00 | 2013-01-02 15:30:00
            """,
            """
            dep_utc             | arr_utc             | dep_delay_min | arr_delay_min | distance_mi
            2013-01-02 12:10:00 | 2013-01-02 13:20:00 | 10            | 20            | 187
            2013-01-02 17:00:00 | 2013-01-02 18:15:00 | 0             | 15            | 187
            2013-01-02 14:59:00 | 2013-01-02 15:59:00 | -1            | -1            | 187
            -                   | -                   | -             | -             | 187
            """,
        ),
        FLIGHT_TYPES,
    )
    observed = [("JFK", at(2, hour), date(2013, 1, 2), float(hour), *[None] * 8) for hour in (13, 14, 15)]
    planes = [("N1", 2003, 150, date(2013, 1, 1), date(2013, 1, 2)), ("N1", 2003, 200, date(2013, 1, 2), None)]
    rows = flight_features(
        flights=flights,
        weather=spark.createDataFrame(observed, WEATHER_TYPES),
        planes=spark.createDataFrame(planes, PLANE_TYPES),
    )
    assert rows.columns == list(COLUMNS)
    features_of = {row["flight"]: row.asDict() for row in rows.collect()}
    assert sorted(features_of) == [1, 2, 3, 4]
    expected = {
        "late": True,
        "sched_minute": 12 * 60,
        "weekday": 3,
        "month": 1,
        "day_of_year": 2,
        "days_since_holiday": 1,
        "days_to_holiday": 19,
        "distance_mi": 187,
        "sched_duration_min": 60,
        "origin_scheduled": 1,  # flights with a cut-off in the half hour
        "aircraft_age_years": 10,
        "aircraft_seats": 200,  # from the day's snapshot
        "leg_dep_delay_min": 10,
        "leg_slack_min": 290 - 2 * 60,
        "leg_turn_min": 240,
        "leg_arr_delay_min": 20,
        "leg_landed_min": 100,
        # Flight 4 is overdue: its cancellation is not known yet. Flight 3 left early and counts from its schedule.
        "origin_overdue": 1,
        "origin_departures_1h": 0,
        "origin_dep_delay_1h": None,
        "origin_departures_3h": 1,
        "origin_dep_delay_3h": 10.0,
        "origin_dep_late_3h": 0.0,
        "origin_arr_delay_6h": 20.0,
        "origin_enroute_6h": 10.0,
        "band_arrivals_6h": 1,
        "band_arr_delay_6h": 20.0,
        "band_enroute_6h": 10.0,
        "dest_arrivals_1d": None,
        "weather_age_min": 60,
        "temp_f": 14.0,  # the observation at the cut-off is too late
    }
    assert {name: features_of[2][name] for name in expected} == expected
    assert features_of[4]["late"] is None, "cancelled"
    assert features_of[3]["late"] is False
    first = ("leg_dep_delay_min", "leg_landed_min", "origin_dep_delay_3h", "weather_age_min", "temp_f")
    assert {features_of[1][name] for name in first} == {None}, "no event precedes the first flight"


# --- no event after the cut-off changes a feature -------------------------------------------------------------------

BANDS_MI = {"BOS": 187, "ORD": 740, "MIA": 1090, "LAX": 2475}


@dataclass(frozen=True)
class Flight:
    """Scheduled flight and its outcome. Times are minutes after 2013-03-08 00:00 UTC, None if never."""

    number: int
    origin: str
    dest: str
    tailnum: str | None
    sched_dep: int
    dep: int | None
    arr: int | None

    @property
    def sched_arr(self) -> int:
        return self.sched_dep + 40 + BANDS_MI[self.dest] // 8

    def row(self) -> tuple[Any, ...]:
        day = (moment(self.sched_dep) - timedelta(hours=5)).date()
        sched_dep, sched_arr = moment(self.sched_dep), moment(self.sched_arr)
        dep, arr = (None if minute is None else moment(minute) for minute in (self.dep, self.arr))
        dep_delay = None if self.dep is None else self.dep - self.sched_dep
        arr_delay = None if self.arr is None else self.arr - self.sched_arr
        route = ("UA", self.number, self.origin, self.dest, self.tailnum)
        return (day, *route, sched_dep, sched_arr, dep, arr, dep_delay, arr_delay, BANDS_MI[self.dest])


def at(day: int, hour: int) -> datetime:
    return datetime(2013, 1, day, hour, tzinfo=UTC)


def moment(minute: int) -> datetime:
    return datetime(2013, 3, 8, tzinfo=UTC) + timedelta(minutes=minute)


def random_flights(chance: random.Random, days: int = 3, aircraft: int = 80) -> list[Flight]:
    """Create several flights per aircraft and day, some late or cancelled, across the clock change in March."""
    flights = []
    for plane in range(aircraft):
        for day in range(days):
            minute = day * 1440 + chance.randrange(9 * 60, 13 * 60, 10)
            for _ in range(chance.randrange(1, 5)):
                origin, dest = chance.choice(ORIGINS), chance.choice(list(BANDS_MI))
                tailnum = None if chance.random() < 0.05 else f"N{plane}"
                flight = Flight(len(flights), origin, dest, tailnum, minute, None, None)
                flights.append(with_outcome(flight, chance))
                minute += chance.randrange(120, 390, 10)
    return flights


def with_outcome(flight: Flight, chance: random.Random, after: int | None = None) -> Flight:
    """Give the flight a random outcome. Events before the minute ``after`` stay the same."""
    dep, arr = flight.dep, flight.arr
    if after is None or dep is None or dep >= after:
        leaves = flight.sched_dep + chance.choice((-15, -3, 0, 5, 16, 45, 130, 300, 900))
        dep = None if chance.random() < 0.15 else max(leaves, leaves if after is None else after + chance.randrange(3))
        arr = None
    if dep is not None and (after is None or arr is None or arr >= after):
        lands = dep + 20 + BANDS_MI[flight.dest] // 8 + chance.choice((-10, 0, 10, 60, 200))
        arr = None if chance.random() < 0.1 else max(lands, lands if after is None else after + chance.randrange(3))
    return replace(flight, dep=dep, arr=arr)


def random_weather(chance: random.Random, days: int = 3) -> list[tuple[Any, ...]]:
    """Create observations about once an hour, with gaps and not always on the hour."""
    rows = []
    for origin in ORIGINS:
        for hour in range(days * 24 + 10):
            if chance.random() < 0.8:
                when = moment(hour * 60 + chance.choice((0, 0, 0, 51)))
                values = [chance.choice((None, float(chance.randrange(100)))) for _ in WEATHER]
                rows.append((origin, when, when.date(), *values))
    return rows


def features(
    spark: SparkSession, flights: list[Flight], weather: list[tuple[Any, ...]], planes: list[tuple[Any, ...]]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Compute all features except the label, by flight."""
    rows = flight_features(
        flights=spark.createDataFrame([flight.row() for flight in flights], FLIGHT_TYPES),
        weather=spark.createDataFrame(weather, WEATHER_TYPES),
        planes=spark.createDataFrame(planes, PLANE_TYPES),
    )
    records = (row.asDict() for row in rows.drop("late").collect())
    return {tuple(record[name] for name in FLIGHT_KEY): record for record in records}


@pytest.mark.parametrize("seed", range(4))
def test_events_after_the_cutoff_change_no_feature(spark: SparkSession, seed: int) -> None:
    chance = random.Random(seed)
    flights, weather = random_flights(chance), random_weather(chance)
    planes = [(f"N{n}", 2000 + n % 10, 100 + n, date(2013, 1, 1), None) for n in range(80)]
    afternoon = [flight.sched_dep for flight in flights if flight.tailnum and flight.sched_dep % 1440 > 18 * 60]
    cutoff = Counter(afternoon).most_common(1)[0][0] - 120  # the most frequent cut-off
    before = features(spark, flights, weather, planes)

    def change(after: int) -> tuple[list[Flight], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Change all departures, landings, weather and snapshots after the minute."""
        earlier = [row for row in weather if row[1] < moment(after)]
        later = [row for row in random_weather(chance) if row[1] >= moment(after)]
        following = moment(after).date() + timedelta(days=1)
        newer = [(*row[:4], following) for row in planes] + [(row[0], 1990, 1, following, None) for row in planes]
        return [with_outcome(flight, chance, after) for flight in flights], [*earlier, *later], newer

    def changed_features(after: int) -> dict[Any, set[str]]:
        """Return the features that differ, by flight, for flights with a cut-off up to the chosen one."""
        now = features(spark, *change(after))
        due = {key: row for key, row in before.items() if aware(row["cutoff_utc"]) <= moment(cutoff)}
        return {k: {n for n, v in row.items() if v != now[k][n]} for k, row in due.items() if row != now[k]}

    assert changed_features(cutoff) == {}
    changed = set().union(*changed_features(cutoff - 240).values())
    expected = {"leg_dep_delay_min", "origin_dep_delay_3h", "origin_overdue", "temp_f"}
    assert expected <= changed, "changes four hours earlier have an effect"


def aware(local: datetime) -> datetime:
    """Convert a collected timestamp, which is naive and in this machine's zone."""
    return local.astimezone(UTC)
