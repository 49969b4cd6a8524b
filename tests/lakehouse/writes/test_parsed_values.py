"""Landed text that is not exactly a value of its type is quarantined with its column's name, delivery by delivery."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal

from pyspark.sql import DataFrame

from lakehouse import ORIGIN_COLUMNS, Merge, parse, source, table, unparsed
from lakehouse.definitions.text_formats import TextFormat
from tests.lakes import TestLake

COLUMNS = {
    "id": "bigint",
    "day": "date",
    "at": "timestamp",
    "local_at": "timestamp_ntz",
    "amount": "double",
    "price": "decimal(10,2)",
    "flag": "boolean",
}
FORMATS = COLUMNS | {"flag": TextFormat("boolean", true=("true", "yes"), false=("false", "no"))}
HEADER = ",".join(COLUMNS)
LANDED = (
    "1,2024-01-31,2024-01-31 10:00:00,2024-01-31 10:00:00,1.5,1.25,true",
    "2,45292,2024-01-31 10:00:00,2024-01-31 10:00:00,1.5,1.25,true",
    "3,202401,2024-01-31 10:00:00,2024-01-31 10:00:00,1.5,1.25,true",
    "4,240131,2024-01-31 10:00:00,2024-01-31 10:00:00,1.5,1.25,true",
    "5,2024-01-31 garbage,2024-01-31 10:00:00,2024-01-31 10:00:00,1.5,1.25,true",
    "6,2024-01-31,12:30:00,2024-01-31 10:00:00,1.5,1.25,true",
    "7,2024-01-31,45292,2024-01-31 10:00:00,1.5,1.25,true",
    "8,2024-01-31,2024-01-31 10:00:00,2024-01-31 10:00:00+05:00,1.5,1.25,true",
    "9,2024-01-31,2024-01-31 10:00:00,2024-01-31 10:00:00,100.00D,1.25,true",
    "10,2024-01-31,2024-01-31 10:00:00,2024-01-31 10:00:00,12f,1.25,true",
    "11,2024-01-31,2024-01-31 10:00:00,2024-01-31 10:00:00,0x1p3,1.25,true",
    "12,2024-01-31,2024-01-31 10:00:00,2024-01-31 10:00:00,1.5,1.239,true",
    "13,2024-01-31,2024-01-31 10:00:00,2024-01-31 10:00:00,9007199254740993,0.005,t",
    "14,2024,2024,2024-01-31 10:00:00,1.5,1.25,true",
    "15,2024-01-31,2024-01-31 10:00:00.123456789,2024-01-31 10:00:00,1.5,1.25,true",
    "16,2024-01-31,2024-03-31 02:30:00 Europe/Berlin,2024-01-31 10:00:00,1.5,1.25,true",
    "17,0001-01-01,0001-01-01 00:00:00,9999-12-31 23:59:59,-0.0,0,yes",
    "18,2024-1-5,2024-1-5 1:2:3,2024-01-31 10:00:00,1.5,1e2,0",
    "19,2024-01-31,T12:30,2024-01-31 10:00:00,1.5,1.25,true",
    "20,2024-01-31,2024-01-31 10:00:00,12:30:00,1.5,1.25,true",
)
UNPARSED = {
    **{key: ["day"] for key in (2, 3, 4, 5)},
    **{key: ["at"] for key in (6, 7, 15, 16, 19)},
    **{key: ["local_at"] for key in (8, 20)},
    **{key: ["amount"] for key in (9, 10, 11)},
    12: ["price"],
    13: ["price", "flag"],
    14: ["day", "at"],
    18: ["day", "at", "price", "flag"],
}
MORNING = datetime(2024, 1, 31, 10)
GOOD = (date(2024, 1, 31), MORNING.replace(tzinfo=UTC), MORNING, 1.5, Decimal("1.25"), True)
SENTINELS = (
    date.min,
    datetime.min.replace(tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59),
    -0.0,
    Decimal("0.00"),
    True,
)

landed_values = source("raw.values", landing="values", columns=tuple(COLUMNS))


@table("clean.values", columns=COLUMNS, write=Merge(), key=("id",), values="raw.values")
def clean_values(values: DataFrame) -> DataFrame:
    """One row per id, as last delivered."""
    return values.select(*[parse(c, kind).alias(c) for c, kind in FORMATS.items()], unparsed(FORMATS), *ORIGIN_COLUMNS)


def lines(*rows: str) -> str:
    return "\n".join([HEADER, *rows, ""])


def rejects(lake: TestLake, run: str) -> dict[int, list[str]]:
    """Return the unparsed columns of the rows that a run quarantined, by the landed id."""
    rows = lake.quarantine("clean.values", "run", "original", "rules")
    return {
        int(json.loads(original)["id"]): [rule.removeprefix("parsed: ") for rule in rules]
        for name, original, rules in rows
        if name == run
    }


def test_every_delivery_publishes_exact_values_only(make_lake: Callable[..., TestLake]) -> None:
    lake = make_lake(landed_values, clean_values)
    lake.land("raw.values", "1.csv", lines(*LANDED))
    lake.run(run="first")
    assert rejects(lake, "first") == UNPARSED
    assert lake.rows("clean.values") == [(1, *GOOD), (17, *SENTINELS)]

    # One value is corrected, one is wrong in another way.
    lake.land(
        "raw.values", "2.csv", lines(LANDED[1].replace("45292", "2024-01-31"), LANDED[11].replace("1.239", "1.2390"))
    )
    lake.run(run="second")
    assert rejects(lake, "second") == {12: ["price"]}
    assert lake.rows("clean.values") == [(1, *GOOD), (2, *GOOD), (17, *SENTINELS)]

    # The other is corrected as well, and a good row is delivered again with a bad value.
    lake.land("raw.values", "3.csv", lines(LANDED[11].replace("1.239", "1.25"), LANDED[0].replace("1.5", "1.5d")))
    lake.run(run="third")
    assert rejects(lake, "third") == {1: ["amount"]}
    assert lake.rows("clean.values") == [(1, *GOOD), (2, *GOOD), (12, *GOOD), (17, *SENTINELS)]
