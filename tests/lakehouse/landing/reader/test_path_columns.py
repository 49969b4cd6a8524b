"""Columns whose values are in the names of folders."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.definitions import graph
from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.sources import Source, source
from lakehouse.errors import DeclarationError
from tests.lakes import parquet
from tests.readings import read

COLUMNS = {"id": "bigint", "year": "int", "day": "date", "place": "string"}


def events(**more: Any) -> Source:
    options: dict[str, Any] = {"format": "json", "columns": COLUMNS, "path_columns": ("year", "day", "place"), **more}
    return source("raw.events", landing="events", **options)


PATH = "events/year=2024/day=2024-02-29/place=S%C3%A3o%20Paulo/a"
VALUES = (1, 2024, date(2024, 2, 29), "São Paulo")


def test_values_come_from_the_path_in_each_format() -> None:
    assert read(events(), '{"id": 1}\n', PATH).values(*COLUMNS) == [VALUES]
    in_file = parquet([(1,)], pa.schema([("id", pa.int64())]))
    assert read(events(format="parquet"), in_file, PATH).values(*COLUMNS) == [VALUES]
    texts = events(format="csv", columns=("id", "year"), path_columns=("year",))
    assert read(texts, "id\n1\n1,2\n", PATH).values("id", "year", "_malformed") == [
        ("1", "2024", None),
        (None, "2024", "1,2"),
    ]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("events/year=2024/day=2024-02-29/a", "has no folder place=... in its path"),
        ("year=1/day=2024-02-30/place=x/a", "has day=2024-02-30 in its path, which is no date"),
        ("year=1e3/day=2024-02-29/place=x/a", "has year=1e3 in its path, which is no int"),
        ("year=3000000000/day=2024-02-29/place=x/a", "has year=3000000000 in its path, which is no int"),
        ("year=1/year=2/day=2024-02-29/place=x/a", "has year twice in its path"),
    ],
)
def test_a_path_without_a_value_rejects_its_file(path: str, reason: str) -> None:
    assert read(events(), '{"id": 1}\n', path).reason == reason


def test_the_default_folder_of_hive_is_null() -> None:
    path = PATH.replace("S%C3%A3o%20Paulo", "__HIVE_DEFAULT_PARTITION__")
    assert read(events(), '{"id": 1}\n', path).values("place") == [(None,)]


def test_a_column_in_path_and_file_goes_by_the_contract() -> None:
    line = '{"id": 1, "year": 1999}\n'
    assert read(events(), line, PATH).reason == "has an unknown column year"
    result = read(events(contract=Contract(new_column="add")), line, PATH)
    assert result.values("year", "_rescued") == [(2024, '{"year":"1999"}')]
    assert result.added == {}


def test_wrong_path_columns_are_refused() -> None:
    with pytest.raises(DeclarationError) as raised:
        graph.build(
            [
                events(path_columns=("month",)),
                source("raw.all", landing="all", columns=("id",), path_columns=("id",)),
                source(
                    "raw.list",
                    landing="list",
                    format="json",
                    columns={"id": "int", "l": "array<int>"},
                    path_columns=("l",),
                ),
            ]
        )
    for problem in (
        "raw.events: path_columns has 'month', which is not declared",
        "raw.all: path_columns has every column; at least one must be in the files",
        "raw.list: path_columns has 'l' with type array<int>; a path has no nested or binary values",
    ):
        assert problem in str(raised.value)


def test_path_columns_change_the_fingerprint() -> None:
    plain = events(path_columns=())
    assert compute_fingerprint(plain) != compute_fingerprint(events())
