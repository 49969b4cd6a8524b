"""Text formats that are refused when they are declared."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse.definitions.text_formats import TextFormat
from lakehouse.errors import DeclarationError

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("array<int>", {}, "text of this type cannot be parsed"),
    ("int64", {}, "text of this type cannot be parsed"),
    ("int", {"decimal": ","}, "decimal does not apply"),
    ("int", {"pattern": "yyyy"}, "pattern does not apply"),
    ("date", {"thousands": "."}, "thousands does not apply"),
    ("string", {"true": ["1"]}, "true does not apply"),
    ("double", {"decimal": ",", "thousands": ","}, "decimal and thousands are both ','"),
    ("double", {"decimal": ""}, "decimal='' is not one character"),
    ("double", {"thousands": "1"}, "thousands='1' is not one character"),
    ("double", {"thousands": "-"}, "thousands='-' is not one character"),
    ("boolean", {"true": ["1"], "false": ["1"]}, "are not two lists of different texts"),
    ("boolean", {"true": "1"}, "are not two lists of different texts"),
    ("date", {"pattern": "dd.MM.yy"}, "yy cannot be read"),
    ("date", {"pattern": "d.M.yyyy"}, "d, M cannot be read"),
    ("date", {"pattern": "dd-MMM-yyyy"}, "MMM cannot be read"),
    ("date", {"pattern": "dd.MM."}, "yyyy is missing or optional"),
    ("date", {"pattern": "[dd.]MM.yyyy"}, "dd is missing or optional"),
    ("date", {"pattern": "dd.MM.yyyy MM"}, "MM occurs twice"),
    ("date", {"pattern": "dd.MM.yyyy HH"}, "a date has no time"),
    ("timestamp", {"pattern": "HH:mm"}, "yyyy is missing or optional"),
    ("timestamp", {"pattern": "yyyyMMdd[HH][mm]"}, "mm needs HH"),
    ("timestamp", {"pattern": "yyyyMMddHHmm.SSS"}, "S needs ss"),
    ("timestamp", {"pattern": "yyyyMMddHHmmssSSS XXX"}, "only XXX can follow the fraction"),
    ("timestamp", {"pattern": "yyyyMMddHHXXXmm"}, "XXX is not at the end"),
    ("timestamp", {"pattern": "yyyyMMddHHmmssSSSSSSSSS"}, "SSSSSSSSS cannot be read"),
    ("timestamp_ntz", {"pattern": "yyyyMMddHHmmssXXX"}, "timestamp_ntz has no zone"),
    ("timestamp", {"pattern": "yyyy-MM-ddTHH:mm"}, "T cannot be read"),
    ("date", {"pattern": "yyyy-MM-dd]["}, "quotes or brackets do not match"),
    ("date", {"pattern": "yyyy'-MM-dd"}, "quotes or brackets do not match"),
]


@pytest.mark.parametrize(("type_name", "attributes", "problem"), REFUSED)
def test_formats_are_refused_with_the_reason(type_name: str, attributes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        TextFormat(type_name, **attributes)
    assert problem in str(refusal.value)
    assert str(refusal.value).startswith(f"TextFormat({type_name!r}): ")
