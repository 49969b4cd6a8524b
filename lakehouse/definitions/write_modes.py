"""The ways in which a table is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Append:
    """New rows of the driver are added; nothing written is ever changed."""


@dataclass(frozen=True)
class Merge:
    """The newest row for each key.

    ``newest_by`` names the columns that order rows of one key, most significant first: the source's own effective time
    where it has one. Ties, and tables without such a time, go by delivery: `_file_id`, then `_row`.
    """

    newest_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class History:
    """Every version of each key (slowly changing dimension, type 2).

    ``effective`` names the column that says when a row became known. The table gains `valid_from` (inclusive), `valid_to`
    (exclusive, null while current) and `is_current`; rows that repeat what was known before add no version.

    With ``snapshots``, all rows of one time are a snapshot of the whole: a key that the next one leaves out was deleted then, and
    begins anew where a later one has it again. A row that was set aside still says that its key was there; a
    snapshot without any row says nothing.
    """

    effective: str
    snapshots: bool = False


@dataclass(frozen=True)
class Replace:
    """Whole partitions, recomputed when an input touches them.

    ``partition`` is a date column of the table; with ``unit="month"`` it holds the month's first day. Partitions are
    logical: they are replaced by predicate, in one commit, and the files are not split by them.
    """

    partition: str
    unit: Literal["day", "month"] = "day"


@dataclass(frozen=True)
class Rebuild:
    """The whole table, recomputed when any input changed."""


Write = Append | Merge | History | Replace | Rebuild
