"""Options of sources: those that the project reads, and refusals of all others."""

from __future__ import annotations

import pytest

from lakehouse.definitions import graph
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.options import TextOptions
from lakehouse.definitions.sources import Format, source
from lakehouse.errors import DeclarationError

NONE_OF = "is none of a CSV source's (sep, quote, escape, header, encoding)"
NO_CHARACTER = "is not one ASCII character other than a line end"


def find_problems(options: dict[str, str], format: Format = "csv") -> list[str]:
    declared = source("raw.items", landing="items", columns=("id",), format=format, options=options)
    try:
        graph.build([declared])
    except DeclarationError as error:
        return [line.removeprefix("  - raw.items: ") for line in str(error).splitlines()[1:]]
    return []


@pytest.mark.parametrize(
    ("options", "parsed"),
    [
        ({}, TextOptions(",", '"', None, "utf-8", True)),
        ({"sep": "\t", "quote": "'"}, TextOptions(separator="\t", quote="'")),
        ({"sep": "\x01"}, TextOptions(separator="\x01")),
        ({"escape": "\\"}, TextOptions(escape="\\")),
        ({"quote": "'", "escape": "'"}, TextOptions(quote="'")),
        ({"header": "False", "encoding": "UTF8"}, TextOptions(has_header=False)),
        ({"encoding": "ISO-8859-1"}, TextOptions(encoding="iso8859-1")),
    ],
)
def test_options_that_the_project_reads_are_parsed(options: dict[str, str], parsed: TextOptions) -> None:
    assert find_problems(options) == []
    assert TextOptions.parse(options) == parsed


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({"mode": "DROPMALFORMED"}, [f"option 'mode' {NONE_OF}"]),
        ({"delimiter": ";"}, [f"option 'delimiter' {NONE_OF}; did you mean 'sep'?"]),
        ({"Sep": ";"}, [f"option 'Sep' {NONE_OF}; did you mean 'sep'?"]),
        ({"encodng": "UTF-8"}, [f"option 'encodng' {NONE_OF}; did you mean 'encoding'?"]),
        ({"charset": "latin1"}, [f"option 'charset' {NONE_OF}; did you mean 'encoding'?"]),
        ({"multiLine": "true", "nullValue": "NA"}, [f"option 'multiLine' {NONE_OF}", f"option 'nullValue' {NONE_OF}"]),
        ({"header": "no"}, ["option header='no' is neither true nor false"]),
        ({"encoding": "klingon"}, ["option encoding='klingon' is not an encoding of text"]),
        ({"encoding": "hex"}, ["option encoding='hex' is not an encoding of text"]),
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


def test_a_json_source_has_an_encoding_alone() -> None:
    assert find_problems({"encoding": "utf-16"}, "json") == []
    assert find_problems({"sep": ";"}, "json") == ["option 'sep' is none of a JSON source's (encoding)"]
    assert find_problems({"charset": "latin1"}, "json") == [
        "option 'charset' is none of a JSON source's (encoding); did you mean 'encoding'?"
    ]


@pytest.mark.parametrize("name", ["mode", "multiLine", "encoding", "mergeSchema"])
def test_a_parquet_source_has_no_options(name: str) -> None:
    assert find_problems({name: "true"}, "parquet") == [f"option {name!r}: a parquet source has no options"]


def test_header_names_change_the_fingerprint() -> None:
    plain = source("raw.items", landing="items", columns=("id",))
    named = source("raw.items", landing="items", columns=("id",), header_names={"id": "ID"})
    assert compute_fingerprint(plain) == "99747cb7558f", "declarations of before keep their fingerprint"
    assert compute_fingerprint(named) != compute_fingerprint(plain)
