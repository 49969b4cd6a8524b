"""Compare the declared columns of a table with the existing ones: added, widened or in conflict. Needs no Spark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lakehouse.definitions.sources import RESCUED, Source
from lakehouse.definitions.tables import Declaration

# For each type, the types that have all of its values (Delta's list for type widening,
# docs.delta.io/delta-type-widening).
_WIDER = {
    "tinyint": ("smallint", "int", "bigint", "double"),
    "smallint": ("int", "bigint", "double"),
    "int": ("bigint", "double"),
    "float": ("double",),
    "date": ("timestamp_ntz",),
}
_WHOLE_DIGITS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")


@dataclass(frozen=True)
class SchemaChanges:
    """Differences between the declared and the existing columns of a table.

    Attributes:
        added_columns: Names and types of the columns that the next commit adds.
        widenings: Changes to a wider type, in words.
        conflicts: All other differences, in words.
        affected_columns: Existing columns that are removed or get another type.
    """

    added_columns: Mapping[str, str] = field(default_factory=dict)
    widenings: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    affected_columns: tuple[str, ...] = ()

    def describe(self) -> tuple[str, ...]:
        """Return one phrase for each difference."""
        return (*(f"adds {c} {kind}" for c, kind in self.added_columns.items()), *self.widenings, *self.conflicts)


def compare_schemas(expected: Mapping[str, str], existing: Mapping[str, str], declared: Declaration) -> SchemaChanges:
    """Compare the declared columns with the existing ones. Columns that a contract added or rescues into stay."""
    contract_columns = _find_contract_columns(existing, declared)
    removed = [c for c in existing if c not in expected and c not in contract_columns]
    retyped = [c for c, kind in expected.items() if existing.get(c, kind) != kind]
    widened = [c for c in retyped if can_widen(existing[c], expected[c])]
    existing_by_lower = {c.lower(): c for c in existing}
    same_but_case = {
        c: existing_by_lower[c.lower()] for c in expected if c not in existing and c.lower() in existing_by_lower
    }
    return SchemaChanges(
        {c: kind for c, kind in expected.items() if c not in existing and c not in same_but_case},
        tuple(f"widens {c} from {existing[c]} to {expected[c]}" for c in widened),
        (
            *(f"adds {c}, which exists as {other}" for c, other in same_but_case.items()),
            *(f"removes {c}" for c in removed),
            *(f"changes {c} from {existing[c]} to {expected[c]}" for c in retyped if c not in widened),
        ),
        (*removed, *retyped),
    )


def can_widen(old: str, new: str) -> bool:
    """Return whether the new type has all values of the old one."""
    before, after = _DECIMAL.fullmatch(old), _DECIMAL.fullmatch(new)
    if after is None:
        return new in _WIDER.get(old, ())
    whole, scale = int(after[1]) - int(after[2]), int(after[2])
    if before is not None:
        return old != new and whole >= int(before[1]) - int(before[2]) and scale >= int(before[2])
    return whole >= _WHOLE_DIGITS.get(old, 39)


def _find_contract_columns(existing: Mapping[str, str], declared: Declaration) -> set[str]:
    if not isinstance(declared, Source):
        return set()
    return {*existing} if declared.contract.new_column == "add" else {RESCUED} & {*existing}
