"""The features of flights: what they say, and that nothing after the cut-off can move them."""

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

FLIGHT_TYPES = (
    "flight_date date, carrier string, flight int, origin string, dest string, tailnum string, sched_dep_utc timestamp, "
    "sched_arr_utc timestamp, dep_utc timestamp, arr_utc timestamp, dep_delay_min int, arr_delay_min int, distance_mi int"
)
WEATHER_TYPES = "origin string, observed_at timestamp, weather_date date, " + ", ".join(f"{c} double" for c in WEATHER)
PLANE_TYPES = "tailnum string, year_built int, seats int, valid_from date, valid_to date"

Frames = Callable[..., DataFrame]


def test_declaration_has_no_problems() -> None:
    assert find_problems(flight_features) == []


def test_what_was_known_two_hours_before_departure(frame: Frames, spark: SparkSession) -> None:
    flights = frame(
        """
        flight_date | carrier | flight | origin | dest | tailnum | sched_dep_utc       | sched_arr_utc       | dep_utc             | arr_utc             | dep_delay_min | arr_delay_min | distance_mi
        2013-01-02  | B6      | 1      | JFK    | BOS  | N1      | 2013-01-02 12:00:00 | 2013-01-02 13:00:00 | 2013-01-02 12:10:00 | 2013-01-02 13:20:00 | 10            | 20            | 187
        2013-01-02  | B6      | 2      | JFK    | BOS  | N1      | 2013-01-02 17:00:00 | 2013-01-02 18:00:00 | 2013-01-02 17:00:00 | 2013-01-02 18:15:00 | 0             | 15            | 187
        2013-01-02  | B6      | 3      | JFK    | BOS  | N2      | 2013-01-02 15:00:00 | 2013-01-02 16:00:00 | 2013-01-02 14:59:00 | 2013-01-02 15:59:00 | -1            | -1            | 187
        2013-01-02  | B6      | 4      | JFK    | BOS  | -       | 2013-01-02 14:30:00 | 2013-01-02 15:30:00 | -                   | -                   | -             | -             | 187
        """,
        FLIGHT_TYPES,
    )  # fmt: skip
    observed = [("JFK", at(2, hour), date(2013, 1, 2), float(hour), *[None] * 8) for hour in (13, 14, 15)]
    planes = [("N1", 2003, 150, date(2013, 1, 1), date(2013, 1, 2)), ("N1", 2003, 200, date(2013, 1, 2), None)]
    rows = flight_features(
        flights=flights,
        weather=spark.createDataFrame(observed, WEATHER_TYPES),
        planes=spark.createDataFrame(planes, PLANE_TYPES),
    )
    assert rows.columns == list(COLUMNS)
    found = {row["flight"]: row.asDict() for row in rows.collect()}
    assert sorted(found) == [1, 2, 3, 4]
    expected = {
        "late": True, "sched_minute": 12 * 60, "weekday": 3, "month": 1, "day_of_year": 2, "days_since_holiday": 1,
        "days_to_holiday": 19, "distance_mi": 187, "sched_duration_min": 60,
        "origin_scheduled": 1,  # flights whose cut-off is in the half hour
        "aircraft_age_years": 10, "aircraft_seats": 200,  # the snapshot of the day
        "leg_dep_delay_min": 10, "leg_slack_min": 290 - 2 * 60, "leg_turn_min": 240, "leg_arr_delay_min": 20,
        "leg_landed_min": 100,
        "origin_overdue": 1,  # flight 4, cancelled: nobody knows yet that it will not leave. Flight 3 left early, which is not
        # counted before it was due.
        "origin_departures_1h": 0, "origin_dep_delay_1h": None, "origin_departures_3h": 1, "origin_dep_delay_3h": 10.0,
        "origin_dep_late_3h": 0.0, "origin_arr_delay_6h": 20.0, "origin_enroute_6h": 10.0, "band_arrivals_6h": 1,
        "band_arr_delay_6h": 20.0, "band_enroute_6h": 10.0, "dest_arrivals_1d": None,
        "weather_age_min": 60, "temp_f": 14.0,  # what is observed at the cut-off comes too late
    }  # fmt: skip
    assert {name: found[2][name] for name in expected} == expected
    assert found[4]["late"] is None, "cancelled"
    assert found[3]["late"] is False
    first = ("leg_dep_delay_min", "leg_landed_min", "origin_dep_delay_3h", "weather_age_min", "temp_f")
    assert {found[1][name] for name in first} == {None}, "nothing had happened before the first flight"


# --- nothing after the cut-off moves a feature ----------------------------------------------------------------------

BANDS_MI = {"BOS": 187, "ORD": 740, "MIA": 1090, "LAX": 2475}


@dataclass(frozen=True)
class Flight:
    """One scheduled flight and what became of it, times in minutes after 2013-03-08 00:00 UTC, None if never."""

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
        dep, arr = (None if one is None else moment(one) for one in (self.dep, self.arr))
        dep_delay = None if self.dep is None else self.dep - self.sched_dep
        arr_delay = None if self.arr is None else self.arr - self.sched_arr
        return (day, "UA", self.number, self.origin, self.dest, self.tailnum, sched_dep, sched_arr, dep, arr, dep_delay,
                arr_delay, BANDS_MI[self.dest])  # fmt: skip


def at(day: int, hour: int) -> datetime:
    return datetime(2013, 1, day, hour, tzinfo=UTC)


def moment(minute: int) -> datetime:
    return datetime(2013, 3, 8, tzinfo=UTC) + timedelta(minutes=minute)


def some_flights(chance: random.Random, days: int = 3, aircraft: int = 80) -> list[Flight]:
    """Aircraft that fly several times a day, often late, sometimes not at all; over the change of clocks in March."""
    flights = []
    for plane in range(aircraft):
        for day in range(days):
            minute = day * 1440 + chance.randrange(9 * 60, 13 * 60, 10)
            for _ in range(chance.randrange(1, 5)):
                flight = Flight(len(flights), chance.choice(ORIGINS), chance.choice(list(BANDS_MI)),
                                None if chance.random() < 0.05 else f"N{plane}", minute, None, None)  # fmt: skip
                flights.append(happens(flight, chance))
                minute += chance.randrange(120, 390, 10)
    return flights


def happens(flight: Flight, chance: random.Random, after: int | None = None) -> Flight:
    """The flight as it may go: at any time, or with nothing before the minute ``after`` that has not happened by then."""
    dep, arr = flight.dep, flight.arr
    if after is None or dep is None or dep >= after:
        leaves = flight.sched_dep + chance.choice((-15, -3, 0, 5, 16, 45, 130, 300, 900))
        dep = None if chance.random() < 0.15 else max(leaves, leaves if after is None else after + chance.randrange(3))
        arr = None
    if dep is not None and (after is None or arr is None or arr >= after):
        lands = dep + 20 + BANDS_MI[flight.dest] // 8 + chance.choice((-10, 0, 10, 60, 200))
        arr = None if chance.random() < 0.1 else max(lands, lands if after is None else after + chance.randrange(3))
    return replace(flight, dep=dep, arr=arr)


def some_weather(chance: random.Random, days: int = 3) -> list[tuple[Any, ...]]:
    """Observations about once an hour, not always on the hour, with gaps."""
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
    """Every feature by flight; the label left out."""
    rows = flight_features(
        flights=spark.createDataFrame([one.row() for one in flights], FLIGHT_TYPES),
        weather=spark.createDataFrame(weather, WEATHER_TYPES),
        planes=spark.createDataFrame(planes, PLANE_TYPES),
    )
    found = (row.asDict() for row in rows.drop("late").collect())
    return {tuple(one[c] for c in FLIGHT_KEY): one for one in found}


@pytest.mark.parametrize("seed", range(4))
def test_nothing_after_the_cut_off_moves_a_feature(spark: SparkSession, seed: int) -> None:
    chance = random.Random(seed)
    flights, weather = some_flights(chance), some_weather(chance)
    planes = [(f"N{n}", 2000 + n % 10, 100 + n, date(2013, 1, 1), None) for n in range(80)]
    afternoon = [one.sched_dep for one in flights if one.tailnum and one.sched_dep % 1440 > 18 * 60]
    cutoff = Counter(afternoon).most_common(1)[0][0] - 120  # as many flights as can be have this very cut-off
    before = features(spark, flights, weather, planes)

    def changed(after: int) -> tuple[list[Flight], list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """The world as it may go on after the minute: other departures, landings, weather and snapshots."""
        known = [row for row in weather if row[1] < moment(after)]
        later = [row for row in some_weather(chance) if row[1] >= moment(after)]
        following = moment(after).date() + timedelta(days=1)
        newer = [(*row[:4], following) for row in planes] + [(row[0], 1990, 1, following, None) for row in planes]
        return [happens(one, chance, after) for one in flights], [*known, *later], newer

    def moved(after: int) -> dict[Any, set[str]]:
        """The features that differ, by flight, of those whose cut-off is no later than the one chosen."""
        then = features(spark, *changed(after))
        due = {key: one for key, one in before.items() if aware(one["cutoff_utc"]) <= moment(cutoff)}
        return {k: {n for n, v in one.items() if v != then[k][n]} for k, one in due.items() if one != then[k]}

    assert moved(cutoff) == {}
    told = set().union(*moved(cutoff - 240).values())
    assert {"leg_dep_delay_min", "origin_dep_delay_3h", "origin_overdue", "temp_f"} <= told, (
        "four hours earlier it shows"
    )


def aware(local: datetime) -> datetime:
    """A collected timestamp, which is naive and in this machine's zone."""
    return local.astimezone(UTC)
