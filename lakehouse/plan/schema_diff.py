"""How the declared columns of a table differ from those that it has: added, widened, or in a way that breaks. Without Spark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lakehouse.definitions.sources import RESCUED, Source
from lakehouse.definitions.tables import Declaration

# The types that hold every value of another one (Delta's own list for type widening, docs.delta.io/delta-type-widening).
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
    """What the next commit would add to a table's columns, which types it would widen, and how the two contradict otherwise."""

    added_columns: Mapping[str, str] = field(default_factory=dict)
    widenings: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    affected_columns: tuple[str, ...] = ()

    def describe(self) -> tuple[str, ...]:
        return (*(f"adds {c} {kind}" for c, kind in self.added_columns.items()), *self.widenings, *self.conflicts)


def compare_schemas(expected: Mapping[str, str], existing: Mapping[str, str], declared: Declaration) -> SchemaChanges:
    """How the declared columns differ from the table's. What a contract added to the table, or kept aside in it, stays."""
    kept = _find_kept_columns(existing, declared)
    removed = [c for c in existing if c not in expected and c not in kept]
    retyped = [c for c, kind in expected.items() if existing.get(c, kind) != kind]
    wide = [c for c in retyped if can_widen(existing[c], expected[c])]
    by_lower = {c.lower(): c for c in existing}
    alike = {c: by_lower[c.lower()] for c in expected if c not in existing and c.lower() in by_lower}
    return SchemaChanges(
        {c: kind for c, kind in expected.items() if c not in existing and c not in alike},
        tuple(f"widens {c} from {existing[c]} to {expected[c]}" for c in wide),
        (
            *(f"adds {c}, which is there as {other}" for c, other in alike.items()),
            *(f"removes {c}" for c in removed),
            *(f"changes {c} from {existing[c]} to {expected[c]}" for c in retyped if c not in wide),
        ),
        (*removed, *retyped),
    )


def can_widen(old: str, new: str) -> bool:
    """Whether a type holds every value of another one."""
    before, after = _DECIMAL.fullmatch(old), _DECIMAL.fullmatch(new)
    if after is None:
        return new in _WIDER.get(old, ())
    whole, scale = int(after[1]) - int(after[2]), int(after[2])
    if before is not None:
        return old != new and whole >= int(before[1]) - int(before[2]) and scale >= int(before[2])
    return whole >= _WHOLE_DIGITS.get(old, 39)


def _find_kept_columns(existing: Mapping[str, str], declared: Declaration) -> set[str]:
    if not isinstance(declared, Source):
        return set()
    return {*existing} if declared.contract.new_column == "add" else {RESCUED} & {*existing}
