"""Write modes of tables, and the properties of each that the platform depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from lakehouse.definitions.sources import ORIGIN_COLUMNS

PartitionUnit = Literal["day", "month"]
VALIDITY_COLUMNS = ("valid_from", "valid_to", "is_current")


@dataclass(frozen=True)
class WriteMode:
    """A write mode.

    Attributes:
        is_row_preserving: The function returns one row for each row of the table's one incremental input.
        is_append_only: Existing rows are never changed.
        is_rebuilt: A change of any input rebuilds the table.
        reads_all_rows: Each run reads all rows of the incremental input, not only the changed ones.
    """

    is_row_preserving: ClassVar[bool] = False
    is_append_only: ClassVar[bool] = False
    is_rebuilt: ClassVar[bool] = False
    reads_all_rows: ClassVar[bool] = False

    def get_identity_columns(self, key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the columns that identify a row of the table, given its declared key."""
        return key

    def get_order_columns(self) -> tuple[str, ...]:
        """Return the columns that order the rows of one key by age, most significant first."""
        return ()

    def get_added_columns(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Return the columns that the platform adds, with their types, given the declared ones."""
        return {}


@dataclass(frozen=True)
class Append(WriteMode):
    """Append new rows of the incremental input. Existing rows are never changed."""

    is_row_preserving = True
    is_append_only = True

    def get_identity_columns(self, key: tuple[str, ...]) -> tuple[str, ...]:
        return ORIGIN_COLUMNS


@dataclass(frozen=True)
class Merge(WriteMode):
    """The newest row of each key.

    Attributes:
        newest_by: Columns that order the rows of a key, most significant first: the source's own effective time where
            it has one. Rows with equal values are ordered by delivery: `_file_id`, then `_row`.
    """

    is_row_preserving = True
    newest_by: tuple[str, ...] = ()

    def get_order_columns(self) -> tuple[str, ...]:
        return self.newest_by


@dataclass(frozen=True)
class History(WriteMode):
    """Every version of each key (slowly changing dimension, type 2).

    The table gets the columns `valid_from` (inclusive), `valid_to` (exclusive, null while current) and `is_current`.
    A row that repeats the values of the version before adds no version.

    Attributes:
        effective_column: The column with the time from which a row is valid.
        has_snapshots: All rows of one time are a full snapshot. A key that the next snapshot lacks was deleted then. It
            starts a new version if a later snapshot has it again. A quarantined row counts as present. A snapshot
            without rows is ignored.
    """

    is_row_preserving = True
    reads_all_rows = True
    effective_column: str
    has_snapshots: bool = False

    def get_identity_columns(self, key: tuple[str, ...]) -> tuple[str, ...]:
        return (*key, VALIDITY_COLUMNS[0])

    def get_added_columns(self, columns: Mapping[str, str]) -> dict[str, str]:
        time = columns[self.effective_column]
        return dict(zip(VALIDITY_COLUMNS, (time, time, "boolean"), strict=True))


@dataclass(frozen=True)
class Replace(WriteMode):
    """Partitions that are recomputed when a change of an input affects them.

    Partitions are logical: they are replaced by predicate, in one commit. The files are not split by them.

    Attributes:
        partition: A date column of the table.
        unit: With ``month``, the partition column has the month's first day.
    """

    partition: str
    unit: PartitionUnit = "day"


@dataclass(frozen=True)
class Rebuild(WriteMode):
    """The table is rebuilt when any input has changed."""

    is_rebuilt = True


WRITE_MODES = (Append, Merge, History, Replace, Rebuild)
