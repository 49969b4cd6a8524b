"""Undeclared keys at any depth, and text that is not valid Unicode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from tests.readings import read

COLUMNS = {"id": "bigint", "m": "map<string,struct<x:int>>", "s": "struct<city:string>"}
NESTED = (
    '{"id": 1, "m": {"a": {"x": 1, "y": 2}, "b.c": {"y": "t"}, "d": null}, "s": {"city": "A", "zip": {"z": [1]}}}\n'
    '{"id": 2, "m": {}, "s": null, "n": 5}\n'
)


def items(contract: Contract) -> Source:
    return source("raw.items", landing="items", columns=COLUMNS, format="json", contract=contract)


def test_new_keys_within_a_map_are_rescued_by_path() -> None:
    result = read(items(Contract(new_column="rescue")), NESTED)
    assert [*result.columns][3:] == ["m.y", "s.zip", "n"]
    assert result.values("_row", *COLUMNS, "_malformed", "_rescued") == [
        (
            1,
            1,
            [("a", {"x": 1}), ("b.c", {"x": None}), ("d", None)],
            {"city": "A"},
            None,
            json.dumps({"m[a].y": "2", "m[b.c].y": "t", "s.zip": '{"z": [1]}'}, separators=(",", ":")),
        ),
        (2, 2, [], None, None, '{"n":"5"}'),
    ]
    assert read(items(Contract()), NESTED).reason == (
        "has an unknown column m.y; has an unknown column s.zip; has an unknown column n"
    )


def test_nested_keys_are_rescued_where_columns_are_added() -> None:
    result = read(items(Contract(new_column="add")), NESTED)
    assert result.added == {"n": "string"}
    assert result.values("id", "n", "_malformed", "_rescued") == [
        (1, None, None, '{"m[a].y":"2","m[b.c].y":"t","s.zip":"{\\"z\\": [1]}"}'),
        (2, "5", None, None),
    ]


LONE = [
    '{"id": 1, "zz": "\\ud800"}',
    '{"id": 1, "zz": ["a", {"b": "\\udc00x"}]}',
    '{"id": 1, "\\ud800": 1}',
    '{"id": 1, "zz": {"\\udfff": 1}}',
    '{"id": 1, "m": {"\\ud800": {"x": 1}}}',
    '{"id": 1, "m": {"a": {"y": "\\ud83d"}}}',
    '{"id": 1, "m": {"a": {"\\ud83d": 1}}}',
    '{"id": 1, "s": {"city": "A", "\\ude00\\ud83d": 1}}',
]


@pytest.mark.parametrize("contract", [Contract(), Contract(new_column="rescue"), Contract(new_column="add")])
@pytest.mark.parametrize("line", LONE)
def test_lone_surrogates_are_malformed_anywhere(line: str, contract: Any) -> None:
    whole = '{"id": 2, "m": {"\\ud83d\\ude00": {"x": 1}}}'
    result = read(items(contract), f"{line}\n{whole}\n{line}\n")
    assert result.values("_row", *COLUMNS, "_malformed") == [
        (1, None, None, None, line),
        (2, 2, [("😀", {"x": 1})], None, None),
        (3, None, None, None, line),
    ]
    assert result.added == {}


KEYED = [
    ("map<int,string>", '{"m": {"0": "a", "-0": "b"}}'),
    ("map<double,int>", '{"m": {"1": 1, "1.0": 2}}'),
    ("map<timestamp,int>", '{"m": {"2024-01-01 00:00:00Z": 1, "2024-01-01T00:00:00Z": 2}}'),
    ("map<date,int>", '{"m": {"x": 1}}'),
    ("array<struct<k:map<int,int>>>", '{"m": [{"k": {"1": 1}}, {"k": {"00": 1, "0": 2}}]}'),
]


@pytest.mark.parametrize(("kind", "line"), KEYED)
@pytest.mark.parametrize("contract", [Contract(), Contract(new_column="rescue")])
def test_equal_or_wrong_keys_of_maps_are_malformed(kind: str, line: str, contract: Contract) -> None:
    declared = source("raw.items", landing="items", columns={"m": kind}, format="json", contract=contract)
    result = read(declared, f'{{"m": null}}\n{line}\n')
    assert result.values("_row", "m", "_malformed") == [(1, None, None), (2, None, line)]


def test_a_record_that_is_too_deep_is_malformed() -> None:
    deep = '{"id": 1, "zz": ' + "[" * 10_000 + "]" * 10_000 + "}"
    for contract in (Contract(), Contract(new_column="rescue")):
        result = read(items(contract), f'{{"id": 2}}\n{deep}\n')
        assert result.values("id", "_malformed") == [(2, None), (None, deep)]
