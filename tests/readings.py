"""Read landed content by the reader, without a lake."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lakehouse.definitions.sources import LANDING_COLUMNS, Source
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader.compression import DEFAULT_LIMITS, UnpackLimits
from lakehouse.landing.reader.conformance import BatchStamp
from lakehouse.landing.reader.reading import FileReading
from lakehouse.landing.reader.rejection import explain_failure

STAMP = BatchStamp(7, datetime(2024, 1, 31, 12, tzinfo=UTC))
CONSTANT = LANDING_COLUMNS.keys() - {"_row"}


@dataclass(frozen=True)
class Read:
    """The result of reading one file.

    Attributes:
        rows: the rows, without the columns that are the same for all of them.
        columns: the columns of the file with their types.
        added: the columns that the contract adds.
        reason: the reason to reject the file; it then has no rows.
    """

    rows: list[dict[str, Any]]
    columns: Mapping[str, str]
    added: Mapping[str, str]
    reason: str | None

    def values(self, *columns: str) -> list[tuple[Any, ...]]:
        """Return some columns of the rows."""
        assert self.reason is None, self.reason
        return [tuple(row[column] for column in columns) for row in self.rows]


def read(
    source: Source,
    content: bytes | str,
    name: str = "a",
    existing: Mapping[str, str] | None = None,
    limits: UnpackLimits = DEFAULT_LIMITS,
) -> Read:
    """Read the content of one file."""
    with landed(content, name) as (landing, file):
        reading = FileReading(source, file, landing, STAMP, existing or {}, limits)
        rows: list[dict[str, Any]] = []
        try:
            for batch in reading.read_batches():
                assert batch.schema.names == [*source.columns, *reading.added_columns, *source.platform_columns]
                rows += batch.to_pylist()
        except Exception as error:
            return Read([], reading.columns, {}, explain_failure(error))
    constant = [{column: row.pop(column) for column in CONSTANT} for row in rows]
    expected = {"_file_id": 3, "_source_file": name, "_batch_id": 7, "_ingested_at": STAMP.created_at}
    assert all(columns == expected for columns in constant)
    return Read(rows, reading.columns, reading.added_columns, None)


@contextmanager
def landed(content: bytes | str, name: str = "a") -> Iterator[tuple[Path, LandedFile]]:
    """Land one file. Yield the landing zone and the file."""
    data = content.encode() if isinstance(content, str) else content
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        yield Path(folder), LandedFile(name, len(data), 0, "", 3)
