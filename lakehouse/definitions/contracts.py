"""Contracts: the policy for landed files with other columns than declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OnNewColumn = Literal["fail", "rescue", "add"]
OnMissingColumn = Literal["fail", "ignore"]
OnChangedType = Literal["fail", "rescue"]


@dataclass(frozen=True)
class Contract:
    """Policy for landed files with other columns than declared.

    The default ``fail`` rejects the file, on record, and no other file. Otherwise, rescued values are in the row's
    `_rescued`, a JSON object by column. No value is lost and no null is silent.

    Attributes:
        new_column: ``rescue`` ignores the column and rescues its values. ``add`` adds it to the bronze table with its
            type. A column is always rescued if its name differs from another only in case, begins with an underscore,
            or is not allowed in a table.
        missing_column: ``ignore`` sets null in the file's rows and lists the column in `_rescued` under `_missing`.
        changed_type: For Parquet. ``rescue`` casts the values that the declared type can represent without loss, and
            rescues the others.
    """

    new_column: OnNewColumn = "fail"
    missing_column: OnMissingColumn = "fail"
    changed_type: OnChangedType = "fail"

    @property
    def has_rescued_column(self) -> bool:
        """True where files with other columns are accepted. The bronze table then has a column `_rescued`."""
        return self != Contract()
