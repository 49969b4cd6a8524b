"""Options of sources: those that the project reads, and refusals of all others."""

from __future__ import annotations

import pytest

from lakehouse.definitions import graph
from lakehouse.definitions.sources import Format, source
from lakehouse.errors import DeclarationError

NONE_OF = "is none of a CSV source's (sep, quote, escape, header, encoding)"
NO_CHARACTER = "is not one ASCII character other than a line end"
NO_HEADER = "only files with a header are read, so that columns have names"
NO_UTF8 = "only UTF-8 is read. Convert the files before they land"


def find_problems(options: dict[str, str], format: Format = "csv") -> list[str]:
    declared = source("raw.items", landing="items", columns=("id",), format=format, options=options)
    try:
        graph.build([declared])
    except DeclarationError as error:
        return [line.removeprefix("  - raw.items: ") for line in str(error).splitlines()[1:]]
    return []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sep": ";"},
        {"sep": "\t", "quote": "'"},
        {"sep": "\x01"},
        {"escape": "\\"},
        {"quote": "'", "escape": "'"},
        {"header": "true", "encoding": "UTF-8"},
        {"header": "True", "encoding": "utf8"},
    ],
)
def test_options_that_the_project_reads_are_accepted(options: dict[str, str]) -> None:
    assert find_problems(options) == []


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"mode": "DROPMALFORMED"}, [f"option 'mode' {NONE_OF}"]),
        ({"delimiter": ";"}, [f"option 'delimiter' {NONE_OF}; did you mean 'sep'?"]),
        ({"Sep": ";"}, [f"option 'Sep' {NONE_OF}; did you mean 'sep'?"]),
        ({"encodng": "UTF-8"}, [f"option 'encodng' {NONE_OF}; did you mean 'encoding'?"]),
        ({"charset": "latin1"}, [f"option 'charset' {NONE_OF}; did you mean 'encoding'?"]),
        ({"multiLine": "true", "nullValue": "NA"}, [f"option 'multiLine' {NONE_OF}", f"option 'nullValue' {NONE_OF}"]),
        ({"header": "false"}, [f"option header='false': {NO_HEADER}"]),
        ({"encoding": "ISO-8859-1"}, [f"option encoding='ISO-8859-1': {NO_UTF8}"]),
        ({"encoding": "UTF-16"}, [f"option encoding='UTF-16': {NO_UTF8}"]),
        ({"sep": ";;"}, [f"option sep=';;' {NO_CHARACTER}"]),
        ({"sep": "\n"}, [f"option sep='\\n' {NO_CHARACTER}"]),
        ({"quote": ""}, [f"option quote='' {NO_CHARACTER}"]),
        ({"quote": "§"}, [f"option quote='§' {NO_CHARACTER}"]),
        ({"sep": '"'}, ["the options sep and quote are both '\"'"]),
        ({"sep": "\\", "escape": "\\"}, ["the options sep and escape are both '\\\\'"]),
    ],
)
def test_other_options_are_refused_by_name(options: dict[str, str], problems: list[str]) -> None:
    assert find_problems(options) == problems


@pytest.mark.parametrize("format", ["json", "parquet"])
@pytest.mark.parametrize("name", ["mode", "multiLine", "sep", "mergeSchema"])
def test_other_formats_have_no_options(format: Format, name: str) -> None:
    assert find_problems({name: "true"}, format) == [f"option {name!r}: a {format} source has no options"]
