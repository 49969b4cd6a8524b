"""Parquet files: every type of Arrow is taken without loss, rescued, or rejected by its column's name."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.landing.reader.compression import UnpackLimits
from tests.readings import read

RESCUE = Contract(changed_type="rescue")
MOMENT = datetime(2024, 1, 1, 12, 0, 0, 123456)


def items(columns: dict[str, str], contract: Contract = Contract()) -> Source:
    return source("raw.items", landing="items", columns=columns, format="parquet", contract=contract)


def parquet(table: dict[str, pa.Array], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, **options)
    return buffer.getvalue()


def nanoseconds(*values: int | None) -> pa.Array:
    """Return times in nanoseconds after 2024-01-01 00:00:00."""
    start = 1_704_067_200_000_000_000
    return pa.array([value if value is None else start + value for value in values], pa.timestamp("ns"))


def test_nanoseconds_are_taken_where_nothing_is_lost() -> None:
    columns = {"id": "bigint", "at": "timestamp", "amount": "double"}

    def file(*times: int | None) -> bytes:
        count = len(times)
        return parquet({"id": pa.array(range(count)), "at": nanoseconds(*times), "amount": pa.array([1.0] * count)})

    whole, lossy = file(0, 1_000, None), file(2_000, 1, 2)
    midnight = datetime(2024, 1, 1, tzinfo=UTC)
    assert read(items(columns), whole).values("_row", "id", "at", "amount") == [
        (1, 0, midnight, 1.0),
        (2, 1, midnight.replace(microsecond=1), 1.0),
        (3, 2, None, 1.0),
    ]
    assert read(items(columns), lossy).reason == (
        "has at=2024-01-01 00:00:00.000000001 in row 2, which timestamp cannot hold"
    )
    assert read(items(columns, RESCUE), lossy).values("_row", "id", "at", "_rescued") == [
        (1, 0, midnight.replace(microsecond=2), None),
        (2, 1, None, '{"at":"2024-01-01 00:00:00.000000001"}'),
        (3, 2, None, '{"at":"2024-01-01 00:00:00.000000002"}'),
    ]


def test_nanoseconds_within_nested_values() -> None:
    kind = pa.struct({"at": pa.timestamp("ns"), "n": pa.int64()})
    values = pa.array([{"at": 1_000, "n": 1}, {"at": 1, "n": 2}, None, {"at": None, "n": 4}], kind)
    lists = pa.array([[0, 2_000], [], None, [1]], pa.list_(pa.timestamp("ns")))
    declared = {"v": "struct<at:timestamp_ntz,n:bigint>", "l": "array<timestamp>"}
    start = datetime(1970, 1, 1)
    assert read(items(declared, RESCUE), parquet({"v": values, "l": lists})).values("v", "l", "_rescued") == [
        (
            {"at": start.replace(microsecond=1), "n": 1},
            [start.replace(tzinfo=UTC, microsecond=m) for m in (0, 2)],
            None,
        ),
        (None, [], '{"v":"{\\"at\\":\\"1970-01-01T00:00:00.000000001Z\\",\\"n\\":2}"}'),
        (None, None, None),
        ({"at": None, "n": 4}, None, '{"l":"[\\"1970-01-01T00:00:00.000000001Z\\"]"}'),
    ]


def test_times_without_zone_are_taken_as_declared() -> None:
    local = pa.array([datetime(2024, 3, 31, 2, 30), None], pa.timestamp("us"))
    content = parquet({"at": local})
    assert read(items({"at": "timestamp_ntz"}), content).values("at") == [(datetime(2024, 3, 31, 2, 30),), (None,)]
    assert read(items({"at": "timestamp"}), content).values("at") == [
        (datetime(2024, 3, 31, 2, 30, tzinfo=UTC),),
        (None,),
    ]
    zoned = parquet({"at": local.cast(pa.timestamp("us", "America/New_York"))})
    assert read(items({"at": "timestamp"}), zoned).values("at")[0] == (datetime(2024, 3, 31, 2, 30, tzinfo=UTC),)
    assert read(items({"at": "timestamp_ntz"}), zoned).reason == ("has column at as timestamp, declared timestamp_ntz")


def test_int96_times_do_not_wrap() -> None:
    times = pa.array([datetime(9999, 12, 31), datetime(1, 1, 1), datetime(2024, 1, 1)], pa.timestamp("us"))
    content = parquet({"at": times}, use_deprecated_int96_timestamps=True)
    assert read(items({"at": "timestamp"}), content).values("at") == [
        (datetime(9999, 12, 31, tzinfo=UTC),),
        (datetime(1, 1, 1, tzinfo=UTC),),
        (datetime(2024, 1, 1, tzinfo=UTC),),
    ]


TAKEN = [
    (pa.array([0, 255], pa.uint8()), "smallint", [0, 255]),
    (pa.array([0, 65535], pa.uint16()), "int", [0, 65535]),
    (pa.array([0, 2**32 - 1], pa.uint32()), "bigint", [0, 2**32 - 1]),
    (pa.array([0, 2**64 - 1], pa.uint64()), "decimal(20,0)", [Decimal(0), Decimal(2**64 - 1)]),
    (pa.array([1, None], pa.int8()), "bigint", [1, None]),
    (pa.array([1.5, None], pa.float32()), "double", [1.5, None]),
    (pa.array(np.array([1.5, 2], np.float16)), "float", [1.5, 2.0]),
    (pa.array(["a", None, "a"]).dictionary_encode(), "string", ["a", None, "a"]),
    (pa.array(["a"], pa.large_string()), "string", ["a"]),
    (pa.array(["a"], pa.string_view()), "string", ["a"]),
    (pa.array([b"a"], pa.large_binary()), "binary", [b"a"]),
    (pa.array([b"ab"], pa.binary(2)), "binary", [b"ab"]),
    (pa.array([date(2024, 1, 1)], pa.date64()), "date", [date(2024, 1, 1)]),
    (pa.array([date(9999, 12, 31)], pa.date32()), "date", [date(9999, 12, 31)]),
    (pa.array([Decimal("1.25")], pa.decimal128(10, 2)), "decimal(10,2)", [Decimal("1.25")]),
    (pa.array([Decimal("1.25")], pa.decimal32(5, 2)), "decimal(5,2)", [Decimal("1.25")]),
    (pa.array([[1], None, []], pa.large_list(pa.int8())), "array<tinyint>", [[1], None, []]),
    (pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), "array<tinyint>", [[1, 2], [3, 4]]),
    (
        pa.array([{"b": "x", "a": 1}, None], pa.struct({"b": pa.large_string(), "a": pa.uint8()})),
        "struct<a:smallint,b:string>",
        [{"a": 1, "b": "x"}, None],
    ),
    (
        pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.uint16())),
        "map<string,int>",
        [[("k", 1)], None],
    ),
    (pa.nulls(2), "int", [None, None]),
    (pa.nulls(1), "struct<a:array<int>>", [None]),
]


@pytest.mark.parametrize(("values", "declared", "expected"), TAKEN, ids=[f"{v.type}" for v, _, _ in TAKEN])
def test_types_are_taken_without_loss(values: pa.Array, declared: str, expected: list[Any]) -> None:
    assert read(items({"v": declared}), parquet({"v": values})).values("v") == [(value,) for value in expected]


def test_nested_values_are_taken_from_slices() -> None:
    """The second batch of a file begins within its arrays."""
    count = 70_000
    kind = pa.map_(pa.string(), pa.timestamp("ms"))
    values = pa.array([[("k", number)] if number % 3 else None for number in range(count)], kind)
    lists = pa.array([[number] if number % 2 else [] for number in range(count)], pa.list_(pa.uint32()))
    result = read(items({"m": "map<string,timestamp_ntz>", "l": "array<bigint>"}), parquet({"m": values, "l": lists}))
    assert result.values("_row", "m", "l") == [
        (
            number + 1,
            [("k", datetime(1970, 1, 1) + timedelta(milliseconds=number))] if number % 3 else None,
            [number] if number % 2 else [],
        )
        for number in range(count)
    ]


REJECTED = [
    (pa.array([1], pa.uint64()), "bigint", "has column v as decimal(20,0), declared bigint"),
    (pa.array([1], pa.int64()), "int", "has column v as bigint, declared int"),
    (pa.array([1], pa.int32()), "double", "has column v as int, declared double"),
    (pa.array([Decimal("1.5")]), "decimal(12,2)", "has column v as decimal(2,1), declared decimal(12,2)"),
    (pa.array([time(12)], pa.time32("ms")), "timestamp", "has column v as time32[ms], declared timestamp"),
    (pa.array([{"a": 1}]), "struct<b:bigint>", "has column v as struct<a:bigint>, declared struct<b:bigint>"),
    (pa.array([[1]], pa.list_(pa.int32())), "array<bigint>", "has column v as array<int>, declared array<bigint>"),
    (pa.array([[1]]), "bigint", "has column v as array<bigint>, declared bigint"),
]


@pytest.mark.parametrize(("values", "declared", "reason"), REJECTED, ids=[f"{v.type}" for v, _, _ in REJECTED])
def test_other_types_are_rejected_by_name(values: pa.Array, declared: str, reason: str) -> None:
    assert read(items({"v": declared}), parquet({"v": values})).reason == reason


BEYOND = 2932897  # days until 10000-01-01
CHANGED = [
    (pa.array(["1.5", "3", "03", None]), "int", [None, 3, None, None], ["1.5", None, "03", None]),
    (pa.array([3.0, 3.7, float("nan"), 1e300]), "int", [3, None, None, None], [None, "3.7", "NaN", "1e+300"]),
    (pa.array([2**40, 7]), "int", [None, 7], [str(2**40), None]),
    (pa.array([2**53 + 1, 2**53]), "double", [None, float(2**53)], [str(2**53 + 1), None]),
    (pa.array([2**63, 1], pa.uint64()), "bigint", [None, 1], [str(2**63), None]),
    (pa.array([Decimal("1.50"), Decimal("1.25")]), "decimal(5,1)", [Decimal("1.5"), None], [None, "1.25"]),
    (pa.array([True]), "int", [None], ["true"]),
    (pa.array([MOMENT.replace(microsecond=0)]), "int", [None], ["2024-01-01 12:00:00"]),
    (pa.array([MOMENT, datetime(2024, 1, 2)]), "date", [None, date(2024, 1, 2)], ["2024-01-01 12:00:00.123456", None]),
    (pa.array([date(2024, 1, 2)]), "timestamp_ntz", [datetime(2024, 1, 2)], [None]),
    (pa.array(["2024-01-02", "20240102"]), "date", [date(2024, 1, 2), None], [None, "20240102"]),
    (pa.array([[1, 2], None]), "int", [None, None], ["[1,2]", None]),
    (pa.array([b"\x01"]), "int", [None], ["AQ=="]),
    (pa.array([b"hello", b"\xff", None]), "string", ["hello", None, None], [None, "/w==", None]),
    (pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64())), "int", [None], ['[["k",1],["k",2]]']),
    (pa.array([[BEYOND]], pa.list_(pa.int32())).cast(pa.list_(pa.date32())), "int", [None], ['["10000-01-01"]']),
    (pa.array([time(12)], pa.time32("ms")), "int", [None], ["12:00:00"]),
    (
        pa.array([{"at": MOMENT, "b": None}], pa.struct({"at": pa.timestamp("us"), "b": pa.int64()})),
        "int",
        [None],
        ['{"at":"2024-01-01T12:00:00.123456Z","b":null}'],
    ),
]


@pytest.mark.parametrize(("values", "declared", "taken", "texts"), CHANGED, ids=[f"{c[0].type}" for c in CHANGED])
def test_changed_types_are_cast_or_rescued(values: pa.Array, declared: str, taken: list[Any], texts: list[Any]) -> None:
    rows = read(items({"v": declared}, RESCUE), parquet({"v": values})).values("v", "_rescued")
    assert [(value, text and json.loads(text)) for value, text in rows] == [
        (value, text and {"v": text}) for value, text in zip(taken, texts, strict=True)
    ]


def test_new_columns_of_a_type_without_name() -> None:
    declared, odd = {"id": "int"}, pa.array([{"a-b": 1}])
    ids = pa.array([1], pa.int32())
    for column, kind in ((odd, "struct<a-b:bigint>"), (pa.array([1], pa.uint32()), "bigint")):
        content = parquet({"id": ids, "odd": column})
        assert read(items(declared), content).reason == "has an unknown column odd"
        assert read(items(declared, Contract(new_column="add")), content).reason == (
            f"has column odd as {kind}, which cannot be read"
        )
        rescued = read(items(declared, Contract(new_column="rescue")), content).values("id", "_rescued")
        assert [(i, [*json.loads(text)]) for i, text in rescued] == [(1, ["odd"])]


def test_nan_is_taken_by_a_narrower_type() -> None:
    content = parquet({"v": pa.array([float("nan"), 0.1])})
    [(first, none), (second, rescued)] = read(items({"v": "float"}, RESCUE), content).values("v", "_rescued")
    assert (first != first, none, second, rescued) == (True, None, None, '{"v":"0.1"}')


def test_a_column_with_the_name_of_missing_columns_is_no_loss() -> None:
    contract = Contract(new_column="rescue", missing_column="ignore")
    ids = pa.array([1], pa.int32())
    content = parquet({"id": ids, "_missing": pa.array(["x"])})
    assert read(items({"id": "int"}, contract), content).values("id", "_rescued") == [(1, '{"_missing":"x"}')]
    assert read(items({"id": "int", "b": "int"}, contract), content).reason == (
        "has column _missing, the name by which `_rescued` lists missing columns"
    )


def test_a_file_without_columns_is_rejected() -> None:
    contract = Contract(missing_column="ignore")
    assert read(items({"id": "int"}, contract), parquet({})).reason == "has no columns"


def test_columns_without_values_are_missing_nowhere() -> None:
    content = parquet({"id": pa.array([1, 2], pa.int32()), "value": pa.nulls(2), "more": pa.nulls(2)})
    declared = items({"id": "int", "value": "int"}, Contract(new_column="add"))
    result = read(declared, content)
    assert (result.values("id", "value", "_rescued"), result.added) == ([(1, None, None), (2, None, None)], {})


GOOD = parquet({"id": pa.array(range(1000)), "amount": pa.array([float(n * 31 % 97) for n in range(1000)])})
COLUMNS = {"id": "bigint", "amount": "double"}


@pytest.mark.parametrize(
    "content",
    [
        *(GOOD[:length] for length in (0, 3, 4, 300, len(GOOD) // 2, len(GOOD) - 1)),
        GOOD[:500] + GOOD[600:],
        GOOD[:50] + bytes(1950) + GOOD[2000:],
        b"id,amount\n",
    ],
)
def test_damaged_files_are_rejected(content: bytes) -> None:
    assert "cannot be read: " in (read(items(COLUMNS), content).reason or "")


def test_a_damaged_page_is_found_by_its_checksum() -> None:
    content = bytearray(parquet({"id": pa.array(range(1000))}, write_page_checksum=True, compression="none"))
    content[content.index((500).to_bytes(8, "little")) + 1] ^= 4
    assert "checksum" in (read(items({"id": "bigint"}), bytes(content)).reason or "")


def test_columns_are_compared_by_contract() -> None:
    both = parquet({"id": pa.array([1]), "ID": pa.array([2])})
    assert read(items({"id": "bigint"}), both).reason == ("has an unknown column ID (differs from id only in case)")
    schema = pa.schema([("id", pa.int64()), ("id", pa.int64())])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], schema=schema), buffer)
    assert read(items({"id": "bigint"}), buffer.getvalue()).reason == "has column id twice"
    shuffled = parquet({"amount": pa.array([1.0]), "id": pa.array([1])})
    assert read(items(COLUMNS), shuffled).values("id", "amount") == [(1, 1.0)]
    ignoring = items({**COLUMNS, "day": "date"}, Contract(missing_column="ignore"))
    assert read(ignoring, shuffled).values("id", "amount", "day", "_rescued") == [
        (1, 1.0, None, '{"_missing":["day"]}')
    ]


def test_a_small_file_of_many_rows_is_limited() -> None:
    content = parquet({"id": pa.array([1]).take(pa.array(np.zeros(2_000_000, np.int64)))})
    limits = UnpackLimits(max_bytes=1 << 20, max_ratio=2)
    assert read(items({"id": "bigint"}), content, limits=limits).reason == "unpacks to more than 1,048,576 bytes"
