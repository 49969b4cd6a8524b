"""The kinds of defects in rows of flights: the change to a row, and the check that claims to catch it.

This module alone defines the defects. It uses no code of the tables to decide which rows are wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm
from typing import Literal

# A landed row: its values by column, in the file's order. An additional or missing value changes the number of fields.
Row = dict[str, str]
Change = Callable[[Row, int], None]

NUMBERS = (
    "year",
    "month",
    "day",
    "dep_time",
    "sched_dep_time",
    "dep_delay",
    "sched_arr_time",
    "arr_delay",
    "flight",
    "air_time",
    "distance",
    "arr_time",
    "hour",
    "minute",
)
KEY_COLUMNS = ("carrier", "flight", "origin", "dest", "sched_dep_time", "time_hour")
LATE_IN_SECONDS_MIN = 60

# The checks of the platform, beside the table's own rules.
KEY, PARSED, WELL_FORMED, NEWEST = "key_is_not_null", "parsed", "well_formed", "newest row per key"


def has_arrived(row: Row) -> bool:
    return row["arr_delay"] != "NA"


@dataclass(frozen=True)
class Kind:
    """A kind of defect in a row.

    Attributes:
        claim: name of the check that claims to catch it; None if no check does.
        change: changes the row; its second argument counts the earlier defects of this kind.
        of: selects the rows that can have the defect.
        how: change the row, deliver a changed copy beside it, or drop the row.
        joins: column in which a quote opens the value; the next row closes it.
    """

    name: str
    claim: str | None
    change: Change
    of: Callable[[Row], bool] = has_arrived
    how: Literal["change", "copy", "drop"] = "change"
    joins: str | None = None


def is_cancelled(row: Row) -> bool:
    return row["dep_time"] == "NA"


def has_small_delays(row: Row) -> bool:
    """Check that both delays stay plausible in seconds."""
    return has_arrived(row) and -5 <= int(row["arr_delay"]) <= LATE_IN_SECONDS_MIN >= int(row["dep_delay"]) >= -3


def keep_values(row: Row, turn: int) -> None:
    """Change no value: for an exact copy, or for a row that is left out."""


def put(**values: str) -> Change:
    """Return a change that sets each column to its value."""
    return one_of(values)


def one_of(*choices: Row) -> Change:
    """Return a change that sets the columns to the values of one choice, in turns."""

    def change(row: Row, turn: int) -> None:
        row.update(choices[turn % len(choices)])

    return change


def in_one_of(columns: tuple[str, ...], *values: str) -> Change:
    """Return a change that sets one of the columns to one of the values, both in turns."""
    turns = range(lcm(len(columns), len(values)))
    return one_of(*[{columns[turn % len(columns)]: values[turn % len(values)]} for turn in turns])


def times(factor: float, *columns: str) -> Change:
    """Return a change that multiplies the numbers in the columns; missing ones stay missing."""

    def change(row: Row, turn: int) -> None:
        row.update({c: str(round(int(row[c]) * factor)) for c in columns if row[c] != "NA"})

    return change


def _other_hour(row: Row, turn: int) -> None:
    """Shift `time_hour` against the local schedule by an hour (summer time) or by five (local time taken for UTC)."""
    hour = int(row["time_hour"][11:13])
    row["time_hour"] = f"{row['time_hour'][:11]}{(hour + (1, 19)[turn % 2]) % 24:02}{row['time_hour'][13:]}"


def _other_schedule(row: Row, turn: int) -> None:
    """Shift the scheduled departure by an hour, out of the hour of `time_hour`."""
    row["sched_dep_time"] = str((int(row["sched_dep_time"]) + 100) % 2400)


def _other_minute(row: Row, turn: int) -> None:
    """Shift the scheduled departure by some minutes within the same hour."""
    hour, minute = divmod(int(row["sched_dep_time"]), 100)
    row["sched_dep_time"] = str(hour * 100 + (minute + 7) % 60)


def _other_day(row: Row, turn: int) -> None:
    row["day"] = str(int(row["day"]) % 28 + 2)


def _comma(row: Row, turn: int) -> None:
    """Put a comma into an unquoted value, which adds a field."""
    row.update([("tailnum", f"{row['tailnum']},"), ("dest", f"{row['dest']},Terminal {turn}")][turn % 2 : turn % 2 + 1])


def _missing_field(row: Row, turn: int) -> None:
    del row[("tailnum", "minute", "year")[turn % 3]]


def _to_the_left(row: Row, turn: int) -> None:
    """Leave the destination out: the later values move up, and an empty value fills the line."""
    del row["dest"]
    row["_filler"] = ""


def _swap(first: str, second: str) -> Change:
    def change(row: Row, turn: int) -> None:
        row[first], row[second] = row[second], row[first]

    return change


def _other_origin(row: Row, turn: int) -> None:
    row["origin"] = {"EWR": "JFK", "JFK": "LGA", "LGA": "EWR"}[row["origin"]]


def _other_departure(row: Row, turn: int) -> None:
    row["dep_time"] = str(600 + (int(row["dep_time"]) + 300) % 1200 // 100 * 100)


def _later_values(row: Row, turn: int) -> None:
    row.update(arr_delay=str(int(row["arr_delay"]) + 7), tailnum="N99999")


NOT_FLOWN = {"dep_time": "NA", "arr_time": "NA"}
CLAIMED = (
    Kind("text in a number", PARSED, in_one_of(NUMBERS, "two", "12x", "#REF!", "--")),
    Kind("a number beyond its type", PARSED, in_one_of(NUMBERS, "99999999999", "-2147483649")),
    Kind("NaN, null and the like in a number", PARSED, in_one_of(NUMBERS, "NaN", "null", "Infinity", "None", "n/a")),
    Kind("a fraction in a whole number", PARSED, in_one_of(("dep_delay", "arr_delay", "air_time", "distance"), "12.5")),
    Kind("text in a time", PARSED, in_one_of(("time_hour",), "yesterday", "10:00", "2013-01-01T25:00:00Z")),
    Kind("a day that does not exist", PARSED, one_of({"month": "2", "day": "30"}, {"month": "13"}, {"day": "0"})),
    Kind(
        "a clock that does not exist",
        PARSED,
        one_of({"dep_time": "2575"}, {"sched_arr_time": "2401"}, {"sched_dep_time": "575"}, {"dep_time": "-5"}),
    ),
    Kind("time_hour contradicts the local schedule", PARSED, _other_hour),
    Kind("the schedule's clock contradicts time_hour", PARSED, _other_schedule),
    Kind("the date contradicts time_hour", PARSED, _other_day),
    Kind("a date of another year", PARSED, one_of({"year": "2031"}, {"year": "1913"})),
    Kind("a part of the key is missing", KEY, in_one_of(KEY_COLUMNS, "NA", "")),
    Kind("values moved one column to the left", KEY, _to_the_left),
    Kind("a comma within a value: a field more", WELL_FORMED, _comma),
    Kind("a field less", WELL_FORMED, _missing_field),
    Kind("a value that runs into the next row", "codes_have_their_length", keep_values, joins="tailnum"),
    Kind("a number that runs into the next row", PARSED, keep_values, joins="arr_time"),
    Kind(
        "blanks or more around a code",
        "codes_have_their_length",
        one_of({"dest": "LAX "}, {"carrier": " UA"}, {"tailnum": "N14228 (EWR)"}),
    ),
    Kind("departs from elsewhere", "origin_is_new_york", in_one_of(("origin",), "PHL", "ewr", "XXX")),
    Kind("distance zero", "distance_is_positive", put(distance="0")),
    Kind("distance negative", "distance_is_positive", times(-1, "distance")),
    Kind("distance missing", "distance_is_positive", put(distance="NA")),
    Kind("air time zero", "air_time_is_positive", put(air_time="0")),
    Kind("air time negative", "air_time_is_positive", put(air_time="-227")),
    Kind(
        "departs days late, or hours early",
        "departure_delay_is_plausible",
        in_one_of(("dep_delay",), "4321", "-181", "2147483647"),
    ),
    Kind(
        "arrives days late, or hours early",
        "arrival_delay_is_plausible",
        in_one_of(("arr_delay",), "4321", "-361", "-2147483648"),
    ),
    Kind("departed, without a delay", "departure_has_a_delay", put(dep_delay="NA")),
    Kind("cancelled, with a delay at departure", "departure_has_a_delay", put(dep_delay="5"), is_cancelled),
    Kind("cancelled, with an arrival", "cancelled_flight_has_no_arrival", put(**NOT_FLOWN, dep_delay="NA")),
    Kind("arrives before it departs", "arrival_follows_departure", put(dep_delay="1440", arr_delay="-10")),
    Kind("departed, without its aircraft", "departed_aircraft_is_named", put(tailnum="NA")),
    Kind(
        "flies to an airport that is not listed",
        "scheduled_arrival_is_known",
        in_one_of(("dest",), "ZZZ", "iah", "QQX"),
    ),
    Kind("the same row twice", NEWEST, keep_values, how="copy"),
    Kind("two rows of a key, with other values", NEWEST, _later_values, how="copy"),
)
UNCLAIMED = (
    Kind("distance in kilometres", None, times(1.609, "distance")),
    Kind("delays in seconds", None, times(60, "dep_delay", "arr_delay"), has_small_delays),
    Kind("the two delays swapped", None, _swap("dep_delay", "arr_delay")),
    Kind("another New York airport", None, _other_origin),
    Kind("the scheduled minute is wrong", None, _other_minute),
    Kind("the clock of the departure contradicts its delay", None, _other_departure),
    Kind("a marker for missing that is none here, in text", None, put(tailnum="NULL")),
    Kind("an airline that is not listed", None, put(carrier="ZZ")),
    Kind("a row is left out", None, keep_values, how="drop"),
)
