"""The grammar of landed text: each text is exactly one value of its type, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakehouse.definitions.text_formats import TextFormat
from lakehouse.spark import parse, unparsed

Values = Mapping[str, str | None]
# No type but string takes these: blanks, line ends, other digits, words of Spark's casts, numbers of other languages.
NEVER = (" ", "\t", "\n", "null", "today", "now", "epoch", "yesterday", "NaN", "Infinity", "-Infinity", "inf", "+INF")
NEVER += (
    "0x10",
    "0x1p3",
    "1_000",
    "1d",
    "5f",
    "100.00D",
    "12F",
    "1L",
    "１",
    "٣",
    "--1",
    "+-1",
    "1+",
    "+",
    "-",
    ".",
    "e5",
)
NEVER += ("1 000", "1\u00a0000", "1,5", "1,000", "'1'", '"1"', "(1)", "1e", "1e+", "12:30:00", "T12:30")


def around(text: str) -> Values:
    """Return a good value with characters around it that some engine trims."""
    extra = (" ", "\t", "\n", "\r", "\r\n", "\0", "\x0b", "\x7f", "\u00a0", "\u2028", "\ufeff")
    return dict.fromkeys([*(text + e for e in extra), *(e + text for e in extra)])


INTEGERS = {
    "0": "0",
    "7": "7",
    "-7": "-7",
    "+1": "1",
    "-0": "0",
    "007": "7",
    "-007": "-7",
    "+00": "0",
    "0" * 50 + "5": "5",
}
NO_INTEGERS = dict.fromkeys(("1.0", "1.", ".5", "1e3", "1E3", "9" * 50, "-" + "9" * 50, "2024-01-31"))
DECIMALS = {"1": "1.00", "1.5": "1.50", "1.25": "1.25", "+1": "1.00", "-0": "0.00", "-0.01": "-0.01", ".5": "0.50"}
DECIMALS |= {"5.": "5.00", "007.10": "7.10", "99999999.99": "99999999.99", "-99999999.99": "-99999999.99"}
NO_DECIMALS = dict.fromkeys(("1.239", "0.005", "1.000", "100000000", "-100000000.00", "1e2", "1E2", "1e400", "1.2.3"))
DOUBLES = {
    "1": "1.0",
    "1.5": "1.5",
    "+1": "1.0",
    "-0": "-0.0",
    "-0.0": "-0.0",
    ".5": "0.5",
    "5.": "5.0",
    "1e3": "1000.0",
}
DOUBLES |= {"1E3": "1000.0", "1.5e-3": "0.0015", "1e+2": "100.0", "007.10": "7.1", "1e-400": "0.0"}
DOUBLES |= {"1.7976931348623157e308": "1.7976931348623157E308", "-4.9e-324": "-4.9E-324"}
DOUBLES |= {"9007199254740993": "9.007199254740992E15", "0.1": "0.1"}
NO_DOUBLES = dict.fromkeys(("1e400", "-1e400", "nan", "9" * 400, "1.2.3", "1e2.5", "1e5d", "0X1P3"))
DATES = {"2024-01-31": "2024-01-31", "2024-02-29": "2024-02-29", "0001-01-01": "0001-01-01", "9999-12-31": "9999-12-31"}
DATES |= {"1582-10-10": "1582-10-10"}
NO_DATES = dict.fromkeys(
    ("2023-02-29", "2024-13-01", "2024-00-01", "2024-01-00", "2024-1-5", "2024-01", "2024", "45292")
)
NO_DATES |= dict.fromkeys(
    ("202401", "240131", "20240131", "31.01.2024", "2024/01/31", "2024-01-31 garbage", "2024-01-31T")
)
NO_DATES |= dict.fromkeys(
    ("2024-01-31 10:00:00", "0000-01-01", "-0001-01-01", "10000-01-01", "+2024-01-31", "２024-01-31")
)
LOCAL_TIMES = {
    "2024-01-31 10:00:00": "2024-01-31 10:00:00",
    "2024-01-31T10:00:00": "2024-01-31 10:00:00",
    "2024-01-31 10:00": "2024-01-31 10:00:00",
    "2024-01-31 10:00:00.5": "2024-01-31 10:00:00.5",
    "2024-01-31 10:00:00.123456": "2024-01-31 10:00:00.123456",
    "0001-01-01 00:00:00": "0001-01-01 00:00:00",
    "9999-12-31 23:59:59.999999": "9999-12-31 23:59:59.999999",
}
TIMES = LOCAL_TIMES | {
    "2024-01-31T10:00:00Z": "2024-01-31 10:00:00",
    "2024-01-31 10:00:00+05:30": "2024-01-31 04:30:00",
    "2024-01-31T10:00:00.123-05:00": "2024-01-31 15:00:00.123",
    "0001-01-01T00:00:00-05:00": "0001-01-01 05:00:00",
    "9999-12-31T23:59:59+05:00": "9999-12-31 18:59:59",
}
# The last two are in years 0 and 10000, which other readers cannot hold.
BEYOND = dict.fromkeys(("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"))
NO_TIMES = dict.fromkeys(("2024-01-31", "2024", "45292", "2024-1-5 1:2:3", "2024-01-31 10", "2024-01-31 24:00:00"))
NO_TIMES |= dict.fromkeys(("2024-01-31 10:60:00", "2024-01-31 10:00:60", "2024-01-31  10:00:00", "2024-01-31t10:00:00"))
NO_TIMES |= dict.fromkeys(("2024-01-31 10:00:00.", "2024-01-31 10:00:00.123456789", "2024-01-31 10:00:00,5"))
NO_TIMES |= dict.fromkeys(("2024-03-31 02:30:00 Europe/Berlin", "2024-01-31 10:00:00 UTC", "2024-01-31 10:00:00+0530"))
NO_TIMES |= dict.fromkeys(
    ("0000-01-01 00:00:00", "10000-01-01 00:00:00", "-0001-01-01 00:00:00", "2023-02-29 00:00:00")
)
NO_TIMES |= dict.fromkeys(
    ("+294247-01-10T04:00:54Z", "2024-01-31T10:00:00+19:00", "2024-01-31T10:00:00z", "2024-01-31T10:00Z")
)
NO_TIMES |= dict.fromkeys(
    ("2024-01-31T10:00-05:00", "2024-01-31T10:00:00 Z", "2024-01-31T10:00:0 Z", "2024-01-31T10:00:0.Z")
)

DEFAULTS: dict[str, Values] = {
    "tinyint": INTEGERS
    | NO_INTEGERS
    | {"127": "127", "-128": "-128", "128": None, "-129": None, "200": None, "256": None},
    "smallint": INTEGERS | NO_INTEGERS | {"32767": "32767", "32768": None, "-32768": "-32768", "+32768": None},
    "int": INTEGERS
    | NO_INTEGERS
    | {"2147483647": "2147483647", "2147483648": None, "-2147483649": None, "+4294967297": None, "0004294967297": None},
    "bigint": INTEGERS
    | NO_INTEGERS
    | {"9223372036854775807": "9223372036854775807", "-9223372036854775808": "-9223372036854775808"}
    | dict.fromkeys(("9223372036854775808", "+9223372036854775808", "18446744073709551617")),
    "decimal(10,2)": DECIMALS | NO_DECIMALS,
    "decimal(38,0)": {"9" * 38: "9" * 38, "9" * 39: None, "1.0": None, "1.": None, "0" * 9 + "1": "1"},
    "double": DOUBLES | NO_DOUBLES,
    "float": {"1.5": "1.5", "1e38": "1.0E38", "1e39": None, "-1e39": None, "nan": None},
    "date": DATES | NO_DATES | around("2024-01-31"),
    "timestamp": TIMES | BEYOND | NO_TIMES | around("2024-01-31 10:00:00") | around("2024-01-31T10:00:00Z"),
    "timestamp_ntz": LOCAL_TIMES | dict.fromkeys(TIMES.keys() - LOCAL_TIMES.keys()) | BEYOND | NO_TIMES,
    "boolean": {"true": "true", "True": "true", "TRUE": "true", "false": "false", "False": "false", "FALSE": "false"}
    | dict.fromkeys(("t", "f", "yes", "no", "y", "n", "1", "0", "tRUE", "true ", " false")),
}
NUMBERS = DEFAULTS.keys() - {"date", "timestamp", "timestamp_ntz", "boolean", "decimal(38,0)", "float"}
CHECKS = {
    name: dict.fromkeys(NEVER) | (around("1") if name in NUMBERS else {}) | dict(v) for name, v in DEFAULTS.items()
}

GERMAN = TextFormat("decimal(10,2)", decimal=",", thousands=".")
FORMATS: dict[TextFormat, Values] = {
    GERMAN: {"1": "1.00", "1,5": "1.50", "1.234,56": "1234.56", "1234,56": "1234.56", "-12.345.678,9": "-12345678.90"}
    | {",5": "0.50", "1.234": "1234.00", "+1.234": "1234.00"}
    | dict.fromkeys(("1.5", "1.50", "1.23,4", "12345.678", "1..234", ".234", "1,239", "1.234.56", "1,234.56", "1 234")),
    TextFormat("int", thousands=","): {"1400": "1400", "1,400": "1400", "-1,400,000": "-1400000", "12,345": "12345"}
    | dict.fromkeys(("1,40", ",400", "1400,000", "1,400,", "1,,400", "2,147,483,648", "1.400", "1,400.0")),
    TextFormat("int", thousands="."): {"1.400": "1400", "1.4": None, "1400": "1400"},
    TextFormat("double", decimal=",", thousands=" "): {"1 234,5": "1234.5", "1,5e3": "1500.0", "1.5": None, "NaN": None}
    | {"1 234 567": "1234567.0", " 234": None, "234 ": None},
    TextFormat("double", thousands="'"): {"1'234.5": "1234.5", "1234.5": "1234.5", "1'2345": None},
    TextFormat("date", pattern="dd.MM.yyyy"): {"31.01.2024": "2024-01-31", "01.12.9999": "9999-12-01"}
    | dict.fromkeys(("1.1.2024", "31.13.2024", "30.02.2024", "31.01.24", "31-01-2024", "2024-01-31", "31.01.0000"))
    | dict.fromkeys(("31.01.2024 ", " 31.01.2024", "31.01.2024\n", "31.01.20245", "３1.01.2024", "31x01x2024")),
    TextFormat("date", pattern="yyyyMMdd"): {"20240131": "2024-01-31", "00010101": "0001-01-01"}
    | dict.fromkeys(("240131", "202401", "20240230", "2024-01-31", "020240131", "00000101", "45292")),
    TextFormat("date", pattern="MM/dd/yyyy"): {"01/31/2024": "2024-01-31", "31/01/2024": None},
    TextFormat("timestamp", pattern="dd.MM.yyyy[ HH:mm[:ss[.SSSSSS]]]"): {
        "31.01.2024": "2024-01-31 00:00:00",
        "31.01.2024 10:05": "2024-01-31 10:05:00",
        "31.01.2024 10:05:07": "2024-01-31 10:05:07",
        "31.01.2024 10:05:07.12": "2024-01-31 10:05:07.12",
    }
    | dict.fromkeys(
        ("31.01.2024 10", "31.01.2024 10:05:07.", "31.01.2024 10:05:07.1234567", "31.01.2024 24:00", "12:30:00")
    )
    | dict.fromkeys(("31.01.2024 10:05:07Z", "31.01.0000 10:05", "31.01.2024 10:05:61")),
    TextFormat("timestamp", pattern="yyyy-MM-dd'T'HH:mm:ss[.SSS][XXX]"): {
        "2024-01-31T10:00:00": "2024-01-31 10:00:00",
        "2024-01-31T10:00:00.123+05:00": "2024-01-31 05:00:00.123",
        "2024-01-31T10:00:00Z": "2024-01-31 10:00:00",
        "2024-01-31 10:00:00": None,
        "2024-01-31T10:00:00.1234": None,
    }
    | BEYOND,
    TextFormat("timestamp", pattern="yyyyMMddHHmmssSSS"): {"20240131100000123": "2024-01-31 10:00:00.123"},
    TextFormat("timestamp_ntz", pattern="dd/MM/yyyy HH:mm:ss,SSS"): {
        "31/01/2024 10:00:00,123": "2024-01-31 10:00:00.123",
        "31/01/2024 10:00:00.123": None,
        "31/01/0000 10:00:00,123": None,
    },
    TextFormat("boolean", true=("yes", "Y"), false=("no",)): {"yes": "true", "Y": "true", "no": "false"}
    | dict.fromkeys(("y", "YES", "true", "false", "1", "yes ")),
}


@pytest.fixture
def read(spark: SparkSession) -> Callable[[str | TextFormat, Values], list[tuple[str | None, ...]]]:
    """Return a function that parses texts, and returns each with its value as text, and the unparsed columns."""

    def parse_all(kind: str | TextFormat, values: Values) -> list[tuple[str | None, ...]]:
        rows: DataFrame = spark.createDataFrame([(text,) for text in values], "text string")
        names = F.concat_ws(",", unparsed({"text": kind}))
        return [(*row,) for row in rows.select("text", parse("text", kind).cast("string"), names).collect()]

    return parse_all


@pytest.mark.parametrize("kind", CHECKS)
def test_text_of_a_type(read, kind: str) -> None:
    expected = [(text, value, "" if value is not None else "text") for text, value in CHECKS[kind].items()]
    assert read(kind, CHECKS[kind]) == expected


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: f"{form.type_name} {form.pattern}{form.decimal}")
def test_text_of_a_format(read, form: TextFormat) -> None:
    expected = [(text, value, "" if value is not None else "text") for text, value in FORMATS[form].items()]
    assert read(form, FORMATS[form]) == expected


def test_missing_text_is_null_and_not_unparsed(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("",), ("NA",), (None,), ("x",)], "text string")
    names = unparsed({"text": "int"}, ("", "NA"))
    values = rows.select("text", parse("text", "int", ("", "NA")), names).collect()
    assert [(*row,) for row in values] == [("", None, []), ("NA", None, []), (None, None, []), ("x", None, ["text"])]


def test_strings_stay_as_landed(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(" x ",), ("today",), ("１",)], "text string")
    assert [row[0] for row in rows.select(parse("text", "string")).collect()] == [" x ", "today", "１"]


def test_long_numbers_end_in_no_error(read) -> None:
    values = {"1" + ",111" * 50_000: None, "1" * 100_000: None, "1." + "1" * 100_000: None}
    form = TextFormat("decimal(10,2)", thousands=",")
    assert [row[1:] for row in read(form, values)] == [(None, "text")] * 3
