"""Values in CSV that are hard to parse: each row is published correctly, or quarantined with its landed values."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame

from lakehouse.definitions.sources import ORIGIN_COLUMNS, source
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import Merge
from lakehouse.spark import parse, unparsed
from tests.faults.compare import content
from tests.lakes import TestLake, parquet

Lakes = Callable[..., TestLake]
TYPES = {"id": "bigint", "at": "int", "ratio": "double", "day": "date", "moment": "timestamp"}
COLUMNS = (*TYPES, "text")
HEADER = ",".join(COLUMNS)
REST = ("1", "0.5", "2024-02-29", "2024-02-29 12:00:00")
landed_values = source("raw.values", landing="values", columns=COLUMNS)
# The same from files in which nothing has to be parsed.
parsed_values = source("raw.values", landing="values", columns=dict.fromkeys(COLUMNS, "string"), format="parquet")


@table(
    "clean.values",
    columns={**TYPES, "text": "string"},
    key=("id",),
    write=Merge(newest_by=("at",)),
    values="raw.values",
)
def clean_values(values: DataFrame) -> DataFrame:
    """One row per id."""
    return values.select(
        *[parse(c, kind).alias(c) for c, kind in TYPES.items()], "text", unparsed(TYPES), *ORIGIN_COLUMNS
    )


def lines(*rows: str, end: str = "\n", header: str = HEADER) -> bytes:
    return end.join([header, *rows, ""]).encode()


def line(number: int, text: str, *rest: str) -> str:
    return ",".join([str(number), *(rest or REST), text])


READABLE = {
    "quotes.csv": lines(
        line(1, '"say ""yes"", or no"'),
        line(2, 'an "inner" quote'),
        line(3, '""""'),
        line(4, "it's"),
        line(5, '"a,b"'),
        line(6, r"back\slash"),
        line(7, r'"ends in a backslash\"'),
        line(8, '"x"', *(f'"{value}"' for value in REST)),
    ),
    "newlines.csv": lines(line(11, '"one\ntwo"'), line(12, '"\n"'), line(13, '"a\n\nb\n"'), line(14, '"1,2,3\n4,5,6"')),
    "crlf.csv": lines(line(21, "plain"), line(22, '"one\r\ntwo"'), line(23, '"one\ntwo"'), end="\r\n"),
    "byte_order_mark.csv": b"\xef\xbb\xbf" + lines(line(31, "blåbær"), line(32, "\ufeffinside")),
    "quoted_header.csv": lines(line(41, "日本 😀"), header=",".join(f'"{c}"' for c in COLUMNS)),
    "spaces.csv": lines(line(51, "  kept  "), line(52, '" kept "'), line(53, "tab\tbed"), line(54, "nul\0nul")),
    "numbers.csv": lines(
        line(
            9223372036854775807,
            "largest",
            "2147483647",
            "1.7976931348623157e308",
            "9999-12-31",
            "9999-12-31 23:59:59.999999",
        ),
        line(-9223372036854775808, "least", "-2147483648", "-4.9e-324", "0001-01-01", "0001-01-01 00:00:00"),
        line(61, "zero", "0", "-0.0", "1582-10-15", "1582-10-15 00:00:00"),
    ),
    "line_ends_of_old.csv": lines(line(24, "x"), line(25, '"one\rtwo"'), end="\r"),
    "missing.csv": lines(line(71, "none", "", "", "", "")),
    "long.csv": lines(line(81, "x" * 300_000)),
    # Of each id, the newest by at; of the same at, the last in the file, and the last file.
    "twice_1.csv": lines(
        line(91, "old"), line(91, "newest", "9", *REST[1:]), line(91, "old"), line(92, "first"), line(92, "last")
    ),
    "twice_2.csv": lines(line(91, "older", "8", *REST[1:]), line(93, "same"), line(93, "same"), line(94, "in file 2")),
    "twice_3.csv": lines(line(94, "in file 3")),
}
SUPERSEDED = 6

UNEVEN = ("201,1", line(202, "x,too many"))

REJECTED = {
    "latin1.csv": lines(line(101, "caf?")).replace(b"?", b"\xe9"),
    "cut_character.csv": lines(line(102, "x")) + "é".encode()[:1],
    "overlong.csv": lines(line(103, "?")).replace(b"?", b"\xc0\xaf"),
    "surrogates.csv": lines(line(104, "?")).replace(b"?", b"\xed\xa0\xbd\xed\xb8\x80"),
    "utf16.csv": lines(line(105, "x")).decode().encode("utf-16"),
}

UNPARSED = {
    "ratio": ["NaN", "nan", "Infinity", "-Infinity", "inf", "+INF", "1e400", "-1e400", "1,5", "0x10", "1_000", "one"],
    "at": ["2147483648", "-2147483649", "1.5", "1e3", "٣", "NaN"],
    "day": ["2023-02-29", "2024-13-01", "today", "NaN"],
    "moment": ["2024-01-01 25:00:00", "294248-01-01 00:00:00", "noon"],
}


Bad = tuple[tuple[str, ...], dict[str, str]]


def bad_rows() -> list[Bad]:
    """Return one row for each value that cannot be parsed, otherwise good, and the rules that it violates."""
    good = dict(zip(COLUMNS, ["", *REST, "as landed"], strict=True))
    columns = [(column, value) for column, values in UNPARSED.items() for value in values]
    rows: list[Bad] = [
        ((f"parsed: {column}",), {**good, "id": str(1000 + number), column: value})
        for number, (column, value) in enumerate(columns)
    ]
    rows += [
        (("key_is_not_null", "parsed: id"), {**good, "id": value}) for value in ("9223372036854775808", "NaN", "1e3")
    ]
    return [*rows, (("key_is_not_null",), {**good, "id": ""})]


def read_records(file: bytes) -> list[tuple[str | None, ...]]:
    """Read a CSV file by Python's reader: an empty value is null."""
    csv.field_size_limit(sys.maxsize)
    _, *rows = csv.reader(io.StringIO(file.decode("utf-8-sig"), newline=""))
    return [tuple(value or None for value in row) for row in rows]


def write_records(rows: list[Bad]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *(row.values() for _, row in rows)])
    return buffer.getvalue().encode()


@pytest.fixture(scope="module")
def undisturbed(make_lake: Lakes) -> list[str]:
    """Return the table from the good rows only, parsed by another reader."""
    lake = make_lake(parsed_values, clean_values, name="undisturbed")
    texts = pa.schema([(name, pa.string()) for name in COLUMNS])
    for name, file in READABLE.items():
        lake.land("raw.values", name, parquet(read_records(file), texts))
    lake.run()
    return content(lake, delivered=False)["clean.values"]


def test_every_value_is_correct_or_quarantined(make_lake: Lakes, undisturbed: list[str]) -> None:
    lake, bad = make_lake(landed_values, clean_values), bad_rows()
    files = {**READABLE, **REJECTED, "unparsed.csv": write_records(bad), "uneven.csv": lines(*UNEVEN)}
    for name, file in files.items():
        lake.land("raw.values", name, file)
    results = lake.run()
    assert content(lake, delivered=False)["clean.values"] == undisturbed
    assert lake.rejected("raw.values").keys() == REJECTED.keys()
    assert results.counts("clean.values")["superseded"] == SUPERSEDED

    quarantined = [
        (tuple(rules), json.loads(text)) for rules, text in lake.quarantine("clean.values", "rules", "original")
    ]
    landed = [(rules, {c: row[c] or "" for c in COLUMNS}) for rules, row in quarantined if not row["_malformed"]]
    assert sorted(landed, key=str) == sorted(bad, key=str)
    assert [(rules, row["_malformed"]) for rules, row in quarantined if row["_malformed"]] == [
        (("well_formed",), text) for text in UNEVEN
    ]


def test_odd_quote_beside_long_value_is_accepted(make_lake: Lakes) -> None:
    csv.field_size_limit(131_072)  # the default limit
    lake = make_lake(landed_values)
    lake.land("raw.values", "inch.csv", lines(line(1, 'a 3" pipe'), line(2, "x" * 300_000)))
    lake.run()
    assert lake.rejected("raw.values") == {}
    assert lake.rows("raw.values", "text") == [('a 3" pipe',), ("x" * 300_000,)]
