"""How the declared columns of a table differ from those that it has: added, widened, or in a way that breaks. Without Spark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lakehouse.definitions.sources import RESCUED, Source
from lakehouse.definitions.tables import Declared

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
class Changes:
    """What the next commit would add to a table's columns, which types it would widen, and how the two contradict otherwise."""

    added: Mapping[str, str] = field(default_factory=dict)
    widened: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def describe(self) -> tuple[str, ...]:
        return (*(f"adds {c} {kind}" for c, kind in self.added.items()), *self.widened, *self.broken)


def changes(wanted: Mapping[str, str], there: Mapping[str, str], declared: Declared) -> Changes:
    """How the declared columns differ from the table's. What a contract added to the table, or kept aside in it, stays."""
    kept = _kept(there, declared)
    removed = [c for c in there if c not in wanted and c not in kept]
    retyped = [c for c, kind in wanted.items() if there.get(c, kind) != kind]
    wide = [c for c in retyped if widens(there[c], wanted[c])]
    by_lower = {c.lower(): c for c in there}
    alike = {c: by_lower[c.lower()] for c in wanted if c not in there and c.lower() in by_lower}
    return Changes(
        {c: kind for c, kind in wanted.items() if c not in there and c not in alike},
        tuple(f"widens {c} from {there[c]} to {wanted[c]}" for c in wide),
        (
            *(f"adds {c}, which is there as {other}" for c, other in alike.items()),
            *(f"removes {c}" for c in removed),
            *(f"changes {c} from {there[c]} to {wanted[c]}" for c in retyped if c not in wide),
        ),
        (*removed, *retyped),
    )


def widens(old: str, new: str) -> bool:
    """Whether a type holds every value of another one."""
    before, after = _DECIMAL.fullmatch(old), _DECIMAL.fullmatch(new)
    if after is None:
        return new in _WIDER.get(old, ())
    whole, scale = int(after[1]) - int(after[2]), int(after[2])
    if before is not None:
        return old != new and whole >= int(before[1]) - int(before[2]) and scale >= int(before[2])
    return whole >= _WHOLE_DIGITS.get(old, 39)


def _kept(there: Mapping[str, str], declared: Declared) -> set[str]:
    if not isinstance(declared, Source):
        return set()
    return {*there} if declared.contract.new_column == "add" else {RESCUED} & {*there}
