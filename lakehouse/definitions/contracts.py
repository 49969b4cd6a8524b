"""Contracts: what becomes of a landed file whose columns differ from the declared ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OnNewColumn = Literal["fail", "rescue", "add"]
OnMissingColumn = Literal["fail", "ignore"]
OnChangedType = Literal["fail", "rescue"]


@dataclass(frozen=True)
class Contract:
    """What becomes of a landed file whose columns are not those declared.

    To ``fail``, the default of each, rejects the file as a whole, on record, and no other. What is kept aside otherwise is in the
    row's `_rescued`, a JSON object by column, so that no value is lost and no null is silent:

    - ``new_column``: the column is ignored and its values kept aside (``rescue``), or added to the bronze table with the type that it
      came with (``add``); one whose name differs from another's only in case, begins with an underscore, or is none for a table is
      always kept aside.
    - ``missing_column``: null in the file's rows (``ignore``), which say so in `_rescued` under `_missing`.
    - ``changed_type`` (Parquet): values that the declared type can hold without loss are taken, others kept aside (``rescue``).
    """

    new_column: OnNewColumn = "fail"
    missing_column: OnMissingColumn = "fail"
    changed_type: OnChangedType = "fail"

    @property
    def has_rescued_column(self) -> bool:
        """Whether files with other columns may be taken, and so whether the bronze table has a column `_rescued`."""
        return self != Contract()
