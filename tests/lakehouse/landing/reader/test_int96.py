"""INT96 times of Parquet: digits below a microsecond are rescued or reject the file, as those of other types."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.landing.reader import parquet_files
from tests.readings import read

RESCUE = Contract(new_column="rescue", missing_column="ignore", changed_type="rescue")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATE, EARLY = datetime(9999, 12, 31, 23, 59, 59, 999_999), datetime(1, 1, 1)


def items(columns: dict[str, str], contract: Contract = Contract()) -> Source:
    return source("raw.items", landing="items", columns=columns, format="parquet", contract=contract)


def int96(table: dict[str, pa.Array], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, use_deprecated_int96_timestamps=True, **options)
    return buffer.getvalue()


def with_nanosecond(day: date, *times: datetime) -> bytes:
    """Return a file of times, with a nanosecond more at the midnight of a day."""
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    content = int96({"at": pa.array(times, pa.timestamp("us"))}, **plain)
    julian_day = (day.toordinal() + 1_721_425).to_bytes(4, "little")
    assert content.count(bytes(8) + julian_day) == 1
    return content.replace(bytes(8) + julian_day, (1).to_bytes(8, "little") + julian_day)


def test_far_times_are_exact_in_microseconds() -> None:
    content = int96({"at": pa.array([LATE, None, EARLY, datetime(2024, 1, 1)], pa.timestamp("us"))})
    assert read(items({"at": "timestamp_ntz"}), content).values("_row", "at") == [
        (1, LATE),
        (2, None),
        (3, EARLY),
        (4, datetime(2024, 1, 1)),
    ]
    assert read(items({"at": "timestamp"}), int96({"at": pa.array([], pa.timestamp("us"))})).rows == []


def test_digits_below_a_microsecond_are_not_lost() -> None:
    content = int96({"at": pa.array([0, 1000, 1, None, -1], pa.timestamp("ns"))})
    assert read(items({"at": "timestamp"}), content).reason == (
        "has at=1970-01-01 00:00:00.000000001 in row 3, which timestamp cannot hold"
    )
    assert read(items({"at": "timestamp"}, RESCUE), content).values("_row", "at", "_rescued") == [
        (1, EPOCH, None),
        (2, EPOCH.replace(microsecond=1), None),
        (3, None, '{"at":"1970-01-01 00:00:00.000000001"}'),
        (4, None, None),
        (5, None, '{"at":"1969-12-31 23:59:59.999999999"}'),
    ]
    assert read(items({"at": "string"}, RESCUE), content).values("at", "_rescued")[1:3] == [
        ("1970-01-01 00:00:00.000001", None),
        ("1970-01-01 00:00:00.000000001", None),
    ]


def test_undeclared_times_keep_their_digits() -> None:
    content = int96({"id": pa.array([1]), "at": pa.array([1], pa.timestamp("ns"))})
    declared = {"id": "bigint"}
    assert read(items(declared, RESCUE), content).values("id", "_rescued") == [
        (1, '{"at":"1970-01-01 00:00:00.000000001"}')
    ]
    assert read(items(declared, Contract(new_column="add")), content).reason == (
        "has at=1970-01-01 00:00:00.000000001 in row 1, which timestamp cannot hold"
    )
    adding = read(items(declared, Contract(new_column="add", changed_type="rescue")), content)
    assert adding.values("id", "at", "_rescued") == [(1, None, '{"at":"1970-01-01 00:00:00.000000001"}')]


def test_digits_are_rescued_beside_far_times() -> None:
    content = with_nanosecond(date(2024, 1, 1), LATE, datetime(2024, 1, 1), EARLY, datetime(2024, 1, 2))
    assert read(items({"at": "timestamp_ntz"}, RESCUE), content).values("_row", "at", "_rescued") == [
        (1, LATE, None),
        (2, None, '{"at":"2024-01-01 00:00:00.000000001"}'),
        (3, EARLY, None),
        (4, datetime(2024, 1, 2), None),
    ]
    assert read(items({"at": "timestamp"}), content).reason == (
        "has at=2024-01-01 00:00:00.000000001 in row 2, which timestamp cannot hold"
    )


def test_far_times_with_more_digits_reject_their_file() -> None:
    content = with_nanosecond(date(9999, 12, 31), datetime(9999, 12, 31), datetime(2024, 1, 1))
    for contract in (Contract(), RESCUE):
        assert read(items({"at": "timestamp"}, contract), content).reason == (
            "has column at with 9999-12-31 00:00:00 and digits below a microsecond, which cannot be read"
        )


def test_digits_within_nested_values_are_not_lost() -> None:
    times = pa.timestamp("ns")
    content = int96(
        {
            "l": pa.array([[1000], [], None, [1]], pa.list_(times)),
            "s": pa.array([{"at": 1}, None, {"at": 3000}, {"at": None}], pa.struct({"at": times})),
            "m": pa.array([[("k", 1000)], None, [], [("k", 2), ("j", 0)]], pa.map_(pa.string(), times)),
        }
    )
    declared = {"l": "array<timestamp>", "s": "struct<at:timestamp>", "m": "map<string,timestamp>"}
    first = EPOCH.replace(microsecond=1)
    assert read(items(declared, RESCUE), content).values("l", "s", "m", "_rescued") == [
        ([first], None, [("k", first)], '{"s":"{\\"at\\":\\"1970-01-01T00:00:00.000000001Z\\"}"}'),
        ([], None, None, None),
        (None, {"at": EPOCH.replace(microsecond=3)}, [], None),
        (
            None,
            {"at": None},
            None,
            '{"l":"[\\"1970-01-01T00:00:00.000000001Z\\"]",'
            '"m":"{\\"k\\":\\"1970-01-01T00:00:00.000000002Z\\",\\"j\\":\\"1970-01-01T00:00:00Z\\"}"}',
        ),
    ]
    assert (read(items(declared), content).reason or "").startswith("has l=[")


def test_batches_keep_their_rows(monkeypatch: Any) -> None:
    monkeypatch.setattr(parquet_files, "BATCH_ROWS", 7)
    numbers = np.arange(50)
    times = pa.array(numbers * 1000 + (numbers % 20 == 19), pa.timestamp("ns"))
    content = int96({"id": pa.array(numbers), "at": times}, row_group_size=11)
    assert read(items({"id": "bigint", "at": "timestamp"}, RESCUE), content).values("_row", "id", "at", "_rescued") == [
        (
            n + 1,
            n,
            None if n in (19, 39) else EPOCH + timedelta(microseconds=n),
            f'{{"at":"1970-01-01 00:00:00.0000{n}001"}}' if n in (19, 39) else None,
        )
        for n in range(50)
    ]
