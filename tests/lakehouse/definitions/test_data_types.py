"""Types of declared columns: aliases, nested types, and types that there are not."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame

from lakehouse.definitions.data_types import TYPES, find_type_problem, normalize_type
from lakehouse.definitions.sources import source
from lakehouse.definitions.tables import Table, table
from lakehouse.definitions.text_formats import TextFormat
from lakehouse.definitions.validation import find_problems
from lakehouse.definitions.write_modes import Rebuild
from lakehouse.landing.reader.column_types import to_arrow_type


def declare(**columns: str) -> Table:
    def items(rows: DataFrame) -> DataFrame:
        """One row per item."""
        return rows

    return table("mart.items", columns=columns, write=Rebuild(), rows="raw.items")(items)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        *((kind, kind) for kind in TYPES),
        ("Integer", "int"),
        ("LONG", "bigint"),
        ("short", "smallint"),
        ("byte", "tinyint"),
        ("text", "string"),
        ("bool", "boolean"),
        ("real", "float"),
        ("timestamp_ltz", "timestamp"),
        ("NUMERIC(10, 2)", "decimal(10,2)"),
        ("array< long >", "array<bigint>"),
        ("map<text, struct<Id: integer, tags: array<text>>>", "map<string,struct<Id:int,tags:array<string>>>"),
    ],
)
def test_types_have_one_canonical_form(written: str, canonical: str) -> None:
    assert normalize_type(written) == canonical
    assert find_type_problem(written) is None
    assert to_arrow_type(written) == to_arrow_type(canonical)


def test_declarations_take_aliases() -> None:
    landed = source("raw.items", landing="items", columns={"id": "long", "at": "Text"}, format="json")
    assert dict(landed.columns) == {"id": "bigint", "at": "string"}
    assert dict(declare(id="integer", sizes="array<short>").columns) == {"id": "int", "sizes": "array<smallint>"}
    assert TextFormat("dec(10, 2)", decimal=",") == TextFormat("decimal(10,2)", decimal=",")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("int64", "which is none of Spark SQL's (string, "),
        ("array<foo>", "in which 'foo' is none of Spark SQL's (string, "),
        ("map<string,struct<a:int,b:varchar(10)>>", "in which 'varchar' is none of Spark SQL's (string, "),
        ("array<void>", "which is none of Spark SQL's (string, "),
        ("array<int", "which lacks '>' behind the types in array<"),
        ("array", "which lacks '<' behind array"),
        ("map<int>", "which lacks ',' behind the key of map"),
        ("map<map<int,int>,int>", "which has a map in the key of a map"),
        ("struct<a int>", "which has the field 'a int' without a colon and its type, such as struct<id:bigint>"),
        ("struct<a:int,A:int>", "which has the field 'a' twice"),
        ("struct<>", "which lacks a field before '>'"),
        ("int>", "which has '>' behind 'int'"),
        ("decimal", "which lacks the digits of a decimal, such as decimal(10,2)"),
        ("decimal(39,2)", "which has decimal(39,2); at most 38 digits, of them 0 to all after the point"),
        ("", "which lacks a type at its end"),
    ],
)
def test_other_types_are_refused_with_the_reason(written: str, problem: str) -> None:
    assert normalize_type(written) == written
    [found] = find_problems(declare(price=written))
    assert found.startswith(f"mart.items: column price has type {written!r}, {problem}")


def test_a_type_that_is_no_text_is_refused() -> None:
    [found] = find_problems(declare(price=int))  # type: ignore[arg-type]
    assert found.startswith("mart.items: column price has type <class 'int'>, which is not text such as 'string'")
