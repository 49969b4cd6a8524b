"""Options of text files: few, checked when declared, and any other is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.sources import Source, source
from lakehouse.errors import DeclarationError
from lakehouse.landing.reader.options import TextOptions


def items(options: dict[str, str], format: Any = "csv") -> Source:
    return source("raw.items", landing="items", columns=("id",), format=format, options=options)


def test_options_are_parsed() -> None:
    assert TextOptions.from_source(items({})) == TextOptions(",", '"', "utf-8", True)
    declared = items({"sep": "\t", "quote": "'", "encoding": "ISO-8859-1", "header": "false"})
    assert TextOptions.from_source(declared) == TextOptions("\t", "'", "iso8859-1", False)
    assert TextOptions.from_source(items({"encoding": "utf-16"}, "json")).encoding == "utf-16"


@pytest.mark.parametrize(
    ("format", "options", "problem"),
    [
        ("csv", {"mode": "DROPMALFORMED"}, "option 'mode' is unknown; the options of a csv source are sep, quote, enc"),
        ("csv", {"delimiter": ";"}, "option 'delimiter' is unknown"),
        ("csv", {"escape": "\\"}, "option 'escape' is unknown"),
        ("json", {"sep": ";"}, "option 'sep' is unknown; the options of a json source are encoding"),
        ("parquet", {"mergeSchema": "true"}, "option 'mergeSchema' is unknown; it has no options"),
        ("csv", {"sep": "||"}, "option sep='||' must be one ASCII character"),
        ("csv", {"sep": "\n"}, "option sep='\\n' must be one ASCII character"),
        ("csv", {"quote": "§"}, "option quote='§' must be one ASCII character"),
        ("csv", {"sep": '"'}, "options sep and quote are both '\"'"),
        ("csv", {"header": "no"}, "option header='no' must be true or false"),
        ("csv", {"encoding": "klingon"}, "option encoding='klingon' is not an encoding of text"),
        ("csv", {"encoding": "hex"}, "option encoding='hex' is not an encoding of text"),
    ],
)
def test_other_options_are_refused_by_name(format: str, options: dict[str, str], problem: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        TextOptions.from_source(items(options, format))
    assert str(raised.value).startswith(f"raw.items: {problem}")


def test_every_problem_is_listed() -> None:
    with pytest.raises(DeclarationError, match=r"'mode' is unknown.*'nullValue' is unknown.*header='x'"):
        TextOptions.from_source(items({"mode": "x", "nullValue": "x", "header": "x"}))


def test_header_names_change_the_fingerprint() -> None:
    plain = source("raw.items", landing="items", columns=("id",))
    named = source("raw.items", landing="items", columns=("id",), header_names={"id": "ID"})
    assert compute_fingerprint(plain) == "99747cb7558f", "declarations of before keep their fingerprint"
    assert compute_fingerprint(named) != compute_fingerprint(plain)
