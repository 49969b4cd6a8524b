"""Rare types of Arrow: each is read by its values, or its column is named, whatever the contract."""

from __future__ import annotations

import io
import json
from datetime import time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from tests.readings import Read, read

KEY = UUID(int=5)
RESCUE = Contract(new_column="rescue", changed_type="rescue")
ADD = Contract(new_column="add", changed_type="rescue")


def items(columns: dict[str, str], contract: Contract = Contract()) -> Source:
    return source("raw.items", landing="items", columns={"id": "int", **columns}, format="parquet", contract=contract)


def read_column(values: pa.Array, columns: dict[str, str], contract: Contract = Contract()) -> Read:
    """Read a file with the column `v` beside a number."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array(range(len(values)), pa.int32()), "v": values}), buffer)
    return read(items(columns, contract), buffer.getvalue())


def extend(kind: Any, values: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, values)


KEYS = extend(pa.uuid(), pa.array([KEY.bytes, None], pa.binary(16)))
TEXTS = extend(pa.json_(), pa.array(['{"a": 1}', None]))
TAKEN = [
    (KEYS, "binary", [KEY.bytes, None]),
    (TEXTS, "string", ['{"a": 1}', None]),
    (extend(pa.bool8(), pa.array([1, None], pa.int8())), "tinyint", [1, None]),
    (extend(pa.opaque(pa.binary(), "point", "db"), pa.array([b"\x01", None])), "binary", [b"\x01", None]),
    (
        extend(pa.fixed_shape_tensor(pa.int8(), [2]), pa.array([[1, 2]], pa.list_(pa.int8(), 2))),
        "array<tinyint>",
        [[1, 2]],
    ),
    (pa.StructArray.from_arrays([KEYS], names=["key"]), "struct<key:binary>", [{"key": KEY.bytes}, {"key": None}]),
    (pa.ListArray.from_arrays([0, 1, 2], TEXTS), "array<string>", [['{"a": 1}'], [None]]),
    (
        pa.MapArray.from_arrays([0, 2, 2], pa.array(["a", "b"]), KEYS),
        "map<string,binary>",
        [[("a", KEY.bytes), ("b", None)], []],
    ),
    (pa.array([Decimal("1.25"), None], pa.decimal256(10, 2)), "decimal(10,2)", [Decimal("1.25"), None]),
    (pa.array(["a", None], pa.large_string()), "string", ["a", None]),
    (pa.array([[1, None], [3, 4]], pa.list_(pa.int32(), 2)), "array<int>", [[1, None], [3, 4]]),
    (pa.array([[1], None, []], pa.list_view(pa.int32())), "array<int>", [[1], None, []]),
    (pa.array([[1], None], pa.large_list_view(pa.int32())), "array<int>", [[1], None]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), TAKEN, ids=[f"{v.type}" for v, _, _ in TAKEN])
def test_plain_values_are_taken_or_added(values: pa.Array, kind: str, expected: list[Any]) -> None:
    declared = read_column(values, {"v": kind}).values("_row", "id", "v")
    assert declared == [(at + 1, at, value) for at, value in enumerate(expected)]
    added = read_column(values, {}, ADD)
    assert (added.added, added.values("_row", "id", "v")) == ({"v": kind}, declared)
    assert [text is None for (text,) in added.values("_rescued")] == [True] * len(expected)
    assert read_column(values, {}).reason == "has an unknown column v"
    assert read_column(values, {"v": "date"}).reason == f"has column v as {kind}, declared date"


def test_extension_values_are_rescued_as_text() -> None:
    for columns in ({}, {"v": "int"}):
        for values, text in ((KEYS, "AAAAAAAAAAAAAAAAAAAABQ=="), (TEXTS, '{"a": 1}')):
            assert read_column(values, columns, RESCUE).values("id", "_rescued") == [
                (0, json.dumps({"v": text}, separators=(",", ":"))),
                (1, None),
            ]


class Pair(pa.ExtensionType):
    """A type with a meaning of its own, of a struct."""

    def __init__(self) -> None:
        super().__init__(pa.struct({"x": pa.int64()}), "tests.pair")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Pair:
        return cls()


@pytest.fixture
def pairs() -> Any:
    pa.register_extension_type(Pair())
    yield extend(Pair(), pa.array([{"x": 1}, None], pa.struct({"x": pa.int64()})))
    pa.unregister_extension_type("tests.pair")


def test_extensions_of_structs_are_named(pairs: pa.Array) -> None:
    problem = f"has column v as {Pair()}"
    assert read_column(pairs, {"v": "struct<x:bigint>"}).reason == f"{problem}, declared struct<x:bigint>"
    assert read_column(pairs, {}, ADD).reason == f"{problem}, which cannot be read"
    for columns in ({}, {"v": "struct<x:bigint>"}):
        assert read_column(pairs, columns, RESCUE).values("id", "_rescued") == [(0, '{"v":"{\\"x\\":1}"}'), (1, None)]


UNKNOWN = [
    (pa.array([timedelta(seconds=1.5), None], pa.duration("ms")), "duration[ms]", "1500 ms"),
    (pa.array([1, None], pa.duration("ns")), "duration[ns]", "1 ns"),
    (pa.array([time(12), None], pa.time32("ms")), "time32[ms]", "12:00:00"),
    (pa.array([time(12, 0, 0, 500), None], pa.time64("us")), "time64[us]", "12:00:00.0005"),
    (pa.array([1, None], pa.time64("ns")), "time64[ns]", "00:00:00.000000001"),
    (pa.array([Decimal("1.25"), None], pa.decimal256(60, 2)), "decimal256(60, 2)", "1.25"),
    (pa.array([[1], None], pa.list_(pa.time64("ns"))), "list<element: time64[ns]>", '["00:00:00.000000001"]'),
    (pa.array([{"a": 5}, None], pa.struct({"a": pa.duration("us")})), "struct<a: duration[us]>", '{"a":"5 us"}'),
]


@pytest.mark.parametrize(("values", "kind", "text"), UNKNOWN, ids=[kind for _, kind, _ in UNKNOWN])
def test_types_that_no_column_has_are_named(values: pa.Array, kind: str, text: str) -> None:
    for declared in ("int", "date", "decimal(38,10)", "struct<a:bigint>"):
        assert read_column(values, {"v": declared}).reason == f"has column v as {kind}, declared {declared}"
    assert read_column(values, {}).reason == "has an unknown column v"
    assert read_column(values, {}, ADD).reason == f"has column v as {kind}, which cannot be read"
    rescued = [(0, json.dumps({"v": text}, separators=(",", ":"))), (1, None)]
    for columns in ({}, {"v": "boolean"}):
        assert read_column(values, columns, RESCUE).values("id", "_rescued") == rescued


def test_such_values_are_taken_where_they_fit() -> None:
    wide = pa.array([Decimal("1.25"), Decimal(10**40)], pa.decimal256(60, 2))
    assert read_column(wide, {"v": "decimal(38,2)"}, RESCUE).values("v", "_rescued") == [
        (Decimal("1.25"), None),
        (None, f'{{"v":"{10**40}.00"}}'),
    ]
    times = pa.array([time(12, 30)], pa.time64("us"))
    assert read_column(times, {"v": "string"}, RESCUE).values("v", "_rescued") == [("12:30:00", None)]


@pytest.mark.parametrize("contract", [Contract(), RESCUE, ADD])
def test_null_lists_of_a_fixed_size_are_named(contract: Contract) -> None:
    lists = pa.array([[1, 2], None], pa.list_(pa.int32(), 2))
    assert read_column(lists, {"v": "array<int>"}, contract).reason == (
        "has column v as fixed_size_list<element: int32>[2], which cannot be read where a list of a fixed size is null"
    )
