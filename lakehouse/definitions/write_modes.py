"""The ways in which a table is written, and what the rest of the platform must know of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from lakehouse.definitions.sources import ORIGIN_COLUMNS

VALIDITY_COLUMNS = ("valid_from", "valid_to", "is_current")


@dataclass(frozen=True)
class WriteMode:
    """A way of writing.

    Attributes:
        is_row_preserving: The function returns one row for each row of the table's one incremental input.
        is_append_only: No row that was written is ever changed.
        is_rebuilt: Any changed input rebuilds the whole table.
        reads_all_rows: Each run reads all rows of the incremental input, not only the changed ones.
    """

    is_row_preserving: ClassVar[bool] = False
    is_append_only: ClassVar[bool] = False
    is_rebuilt: ClassVar[bool] = False
    reads_all_rows: ClassVar[bool] = False

    def identity_columns(self, key: tuple[str, ...]) -> tuple[str, ...]:
        """Return the columns that identify a row of the table, given its declared key."""
        return key

    def order_columns(self) -> tuple[str, ...]:
        """Return the columns that order the rows of one key by age, most significant first."""
        return ()

    def added_columns(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Return the columns that the platform adds, with their types, given the declared ones."""
        return {}


@dataclass(frozen=True)
class Append(WriteMode):
    """New rows of the incremental input are added; nothing written is ever changed."""

    is_row_preserving = True
    is_append_only = True

    def identity_columns(self, key: tuple[str, ...]) -> tuple[str, ...]:
        return ORIGIN_COLUMNS


@dataclass(frozen=True)
class Merge(WriteMode):
    """The newest row for each key.

    ``newest_by`` names the columns that order rows of one key, most significant first: the source's own effective time
    where it has one. Ties, and tables without such a time, go by delivery: `_file_id`, then `_row`.
    """

    is_row_preserving = True
    newest_by: tuple[str, ...] = ()

    def order_columns(self) -> tuple[str, ...]:
        return self.newest_by


@dataclass(frozen=True)
class History(WriteMode):
    """Every version of each key (slowly changing dimension, type 2).

    ``effective`` names the column that says when a row became known. The table gains `valid_from` (inclusive), `valid_to`
    (exclusive, null while current) and `is_current`; rows that repeat what was known before add no version.

    With ``snapshots``, all rows of one time are a snapshot of the whole: a key that the next snapshot leaves out was
    deleted then, and starts a new version where a later snapshot has it again. A quarantined row still counts as
    present. A snapshot without any row is ignored.
    """

    is_row_preserving = True
    reads_all_rows = True
    effective_column: str
    has_snapshots: bool = False

    def identity_columns(self, key: tuple[str, ...]) -> tuple[str, ...]:
        return (*key, VALIDITY_COLUMNS[0])

    def added_columns(self, columns: Mapping[str, str]) -> dict[str, str]:
        time = columns[self.effective_column]
        return dict(zip(VALIDITY_COLUMNS, (time, time, "boolean"), strict=True))


@dataclass(frozen=True)
class Replace(WriteMode):
    """Whole partitions, recomputed when an input touches them.

    ``partition`` is a date column of the table; with ``unit="month"`` it holds the month's first day. Partitions are
    logical: they are replaced by predicate, in one commit, and the files are not split by them.
    """

    partition: str
    unit: Literal["day", "month"] = "day"


@dataclass(frozen=True)
class Rebuild(WriteMode):
    """The whole table, recomputed when any input changed."""

    is_rebuilt = True


WRITE_MODES = (Append, Merge, History, Replace, Rebuild)
