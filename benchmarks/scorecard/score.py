"""The truth against what became of each row and file: caught, missed, false alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

from benchmarks.scorecard.files import FILE_CHECKS, FileKind
from benchmarks.scorecard.kinds import KEY, NEWEST, READABLE, WELL_FORMED, Kind
from benchmarks.scorecard.plant import Month, Place, Planted
from lakehouse.deltalog import table_log
from lakehouse.writes import rules
from silver.flights import flights

if TYPE_CHECKING:
    from lakehouse.catalog import Lake
from lakehouse.definitions.sources import Source

RULES = {rule.name: rule.on_violation for rule in rules.effective_rules(flights)}
# Every check, and what becomes of what it catches.
CHECKS: Mapping[str, str] = {
    **dict.fromkeys(FILE_CHECKS, "file rejected"),
    **{WELL_FORMED: "quarantine", READABLE: "quarantine"},
    **{KEY: RULES[KEY], **RULES},
    NEWEST: "superseded",
}


@dataclass(frozen=True)
class Found:
    """What became of a month: every landed row, those that the table holds, and what was said of rows and files."""

    landed: frozenset[Place]
    kept: frozenset[Place]
    aside: Mapping[Place, frozenset[str]]
    warned: Mapping[Place, frozenset[str]]
    rejected: Mapping[str, str]

    @cached_property
    def superseded(self) -> frozenset[Place]:
        """The landed rows that are neither in the table nor set aside."""
        return self.landed - self.kept - self.aside.keys()

    def said_of(self, one: Planted) -> frozenset[str]:
        """The checks that noticed a planted defect."""
        if one.file in self.rejected:
            return frozenset({_file_check(self.rejected[one.file])})
        if one.row is None:
            return frozenset()
        at = (one.file, one.row)
        if at in self.superseded:
            kept = one.instead is None or one.instead in self.kept
            return frozenset({NEWEST}) if kept else frozenset()
        return self.warned.get(at, frozenset()) if at in self.kept else self.aside.get(at, frozenset())


@dataclass
class Tally:
    """Of one kind, or of one check: ``other`` are defects that other checks than the claimed one noticed, or other
    kinds' defects that the check noticed, too.
    """

    planted: int = 0
    caught: int = 0
    other: int = 0
    missed: int = 0
    false_alarms: int = 0
    noticed_by: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Score:
    kinds: Mapping[str, Tally]
    checks: Mapping[str, Tally]
    claims: Mapping[str, str | None]

    def missed(self) -> list[str]:
        """The claimed kinds of which the claimed check did not catch all."""
        return [name for name, tally in self.kinds.items() if self.claims[name] and tally.caught < tally.planted]

    def false_alarms(self) -> list[str]:
        return [name for name, tally in self.checks.items() if tally.false_alarms]


def score(month: Month, found: Found) -> Score:
    """Compare the truth with what was found, by kind and by check."""
    kinds: dict[str, Tally] = {}
    checks = {name: Tally() for name in CHECKS}
    claims: dict[str, str | None] = {}
    for one in month.planted:
        claims[one.kind.name] = one.kind.claim
        _count(one.kind, found.said_of(one), kinds.setdefault(one.kind.name, Tally()), checks)
    for check in _false_alarms(month, found):
        checks[check].false_alarms += 1
    return Score(kinds, checks, claims)


def _count(kind: Kind | FileKind, said: frozenset[str], tally: Tally, checks: Mapping[str, Tally]) -> None:
    caught = kind.claim in said
    tally.planted += 1
    tally.caught += caught
    tally.other += bool(said) and not caught
    tally.missed += not said
    tally.noticed_by.update(said)
    if kind.claim:
        checks[kind.claim].planted += 1
        checks[kind.claim].caught += caught
        checks[kind.claim].missed += not caught
    for check in said - {kind.claim}:
        checks[check].other += 1


def _false_alarms(month: Month, found: Found) -> Iterable[str]:
    """Each check that spoke of a row or file in which nothing is wrong, as often as it did."""
    for places in (found.aside, found.warned):
        for place, checks in places.items():
            if place not in month.touched:
                yield from checks
    yield from (NEWEST for place in found.superseded if place not in month.touched)
    wrong = {one.file for one in month.planted if one.row is None}
    yield from (_file_check(reason) for file, reason in found.rejected.items() if file not in wrong)


def _file_check(reason: str) -> str:
    """The check by which a file was rejected.

    Raises:
        LookupError: no check is known to say so.
    """
    for check, beginnings in FILE_CHECKS.items():
        if reason.startswith(beginnings):
            return check
    raise LookupError(f"A file was rejected for a reason that no check is known for: {reason}")


def look(lake: Lake) -> Found:
    """What became of the flights that were landed, read from the lake without Spark."""
    import duckdb

    source = cast(Source, lake.graph.declarations["bronze.flights"])
    rejected = {
        one.path: one.reason
        for one in lake.landing_zone(source).find_rejected_files(lake.landing_zone(source).read_history())
    }  # type: ignore[arg-type]
    opened = {
        "bronze": table_log.open_log(lake.path("bronze.flights")), "made": table_log.open_log(lake.path("silver.flights")),
        "aside": table_log.open_log(lake.quarantine_path("silver.flights")),
    }  # fmt: skip
    with duckdb.connect() as found:
        for name, table in opened.items():
            if table is not None:
                found.register(name, table.delta_table.to_pyarrow_dataset())
        names = {row[:2]: (_name(row[2]), row[1]) for row in
                 found.execute("SELECT _file_id, _row, _source_file FROM bronze").fetchall()}  # fmt: skip
        warnings = [rule for rule in flights.rules if rule.on_violation != "quarantine"]
        broken = ", ".join(f"NOT coalesce({rule.predicate}, false)" for rule in warnings)
        made = found.execute(f"SELECT _file_id, _row, {broken} FROM made").fetchall()
        aside = found.execute("SELECT _file_id, _row, rules FROM aside").fetchall() if opened["aside"] else []
    return Found(
        landed=frozenset(names.values()),
        kept=frozenset(names[row[:2]] for row in made),
        aside={names[row[:2]]: frozenset(rule.partition(":")[0] for rule in row[2]) for row in aside},
        warned={
            names[row[:2]]: frozenset(rule.name for rule, is_broken in zip(warnings, row[2:], strict=True) if is_broken)
            for row in made if any(row[2:])
        },
        rejected={_name(path): reason for path, reason in rejected.items()},
    )  # fmt: skip


def _name(path: str) -> str:
    return path.rpartition("/")[2]
