"""The number of records of a file, which must be the number of its rows."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from lakehouse.definitions.sources import source
from lakehouse.landing.reader.counting import count_records
from lakehouse.landing.reader.rejection import RejectedFileError
from tests.lakes import payments_file
from tests.readings import landed, read

HEADERLESS = {"header": "false"}
COUNTED = [
    ("json", {}, '{\n "id": 1\n}\n{\n "id": 2\n}\n', 2),
    ("json", {}, '{"id": 1}\n{\n "id": 2\n}\n{bad}\n', None),
    ("json", {}, '{"id": 1}\n \n{\n "id": 2\n}\n', 2),
    ("json", {}, '[\n {"id": 1},\n {"id": "x"}\n]\n', 2),
    ("json", {}, '{"id": 1}\r{"id": 2}\r', 2),
    ("json", {}, '{"id": 1, "note": "\u2028"}\n{bad\n', 2),
    ("csv", {}, "id,note\n\n1,a\n  \n,\n", 3),
    ("csv", HEADERLESS, "\n1,a\n2\n", 2),
    ("csv", HEADERLESS, "\n\n", 0),
]


@pytest.mark.parametrize(("format", "options", "content", "count"), COUNTED)
def test_records_are_counted_as_they_are_read(format: Any, options: Any, content: str, count: int | None) -> None:
    declared = source("raw.notes", landing="notes", columns=("id", "note"), format=format, options=options)
    result = read(declared, content)
    with landed(content) as (landing, file):
        if count is None:
            assert result.reason
            with pytest.raises(RejectedFileError, match="damaged"):
                count_records(declared, file, landing)
        else:
            assert (count_records(declared, file, landing), len(result.rows), result.reason) == (count, count, None)


def test_a_packed_parquet_file_has_no_count() -> None:
    declared = source("raw.payments", landing="payments", columns={"payment_id": "bigint"}, format="parquet")
    content = payments_file((1, 1, "2024-01-01", 1.0))
    with landed(content) as (landing, file):
        assert count_records(declared, file, landing) == 1
    with landed(gzip.compress(content)) as (landing, file), pytest.raises(RejectedFileError, match="gzip"):
        count_records(declared, file, landing)
