"""The planted defects compared with the outcome of each row and file: caught, missed, false alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

from benchmarks.scorecard.files import FILE_CHECKS, FileKind
from benchmarks.scorecard.kinds import KEY, NEWEST, PARSED, WELL_FORMED, Kind
from benchmarks.scorecard.plant import Month, Place, Planted
from lakehouse.deltalog import table_log
from lakehouse.writes import rules
from silver.flights import flights

if TYPE_CHECKING:
    from lakehouse.catalog import Catalog
from lakehouse.definitions.sources import Source

RULES = {rule.name: rule.on_violation for rule in rules.get_effective_rules(flights)}
# Every check, and the outcome of the rows and files that it catches.
CHECKS: Mapping[str, str] = {
    **dict.fromkeys(FILE_CHECKS, "file rejected"),
    **{WELL_FORMED: "quarantine", PARSED: "quarantine"},
    **{KEY: RULES[KEY], **RULES},
    NEWEST: "superseded",
}


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of a month's rows and files.

    Attributes:
        landed: every row of the bronze table.
        published: the rows in the silver table.
        quarantined: violated rules by quarantined row.
        warned: violated rules by published row.
        rejected: reasons by rejected file.
    """

    landed: frozenset[Place]
    published: frozenset[Place]
    quarantined: Mapping[Place, frozenset[str]]
    warned: Mapping[Place, frozenset[str]]
    rejected: Mapping[str, str]

    @cached_property
    def superseded(self) -> frozenset[Place]:
        """Return the landed rows that are neither in the table nor quarantined."""
        return self.landed - self.published - self.quarantined.keys()

    def find_checks(self, planted: Planted) -> frozenset[str]:
        """Return the checks that noticed a planted defect."""
        if planted.file in self.rejected:
            return frozenset({_find_file_check(self.rejected[planted.file])})
        if planted.row is None:
            return frozenset()
        place = (planted.file, planted.row)
        if place in self.superseded:
            is_replaced = planted.instead is None or planted.instead in self.published
            return frozenset({NEWEST}) if is_replaced else frozenset()
        violated = self.warned if place in self.published else self.quarantined
        return violated.get(place, frozenset())


@dataclass
class Tally:
    """Counts of one kind or of one check.

    Attributes:
        other: of a kind, the defects that only other checks noticed; of a check, the noticed defects of other kinds.
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
        """Return the claimed kinds with a defect that the claimed check missed."""
        return [name for name, tally in self.kinds.items() if self.claims[name] and tally.caught < tally.planted]

    def false_alarms(self) -> list[str]:
        return [name for name, tally in self.checks.items() if tally.false_alarms]


def score_month(month: Month, outcomes: Outcomes) -> Score:
    """Compare the planted defects with the outcomes, by kind and by check."""
    kinds: dict[str, Tally] = {}
    checks = {name: Tally() for name in CHECKS}
    claims: dict[str, str | None] = {}
    for planted in month.planted:
        kind = planted.kind
        claims[kind.name] = kind.claim
        _count(kind, outcomes.find_checks(planted), kinds.setdefault(kind.name, Tally()), checks)
    for check in _false_alarms(month, outcomes):
        checks[check].false_alarms += 1
    return Score(kinds, checks, claims)


def _count(kind: Kind | FileKind, noticed: frozenset[str], tally: Tally, checks: Mapping[str, Tally]) -> None:
    caught = kind.claim in noticed
    tally.planted += 1
    tally.caught += caught
    tally.other += bool(noticed) and not caught
    tally.missed += not noticed
    tally.noticed_by.update(noticed)
    if kind.claim:
        checks[kind.claim].planted += 1
        checks[kind.claim].caught += caught
        checks[kind.claim].missed += not caught
    for check in noticed - {kind.claim}:
        checks[check].other += 1


def _false_alarms(month: Month, outcomes: Outcomes) -> Iterable[str]:
    """Yield the check of each false alarm: of a row or file without a defect."""
    for places in (outcomes.quarantined, outcomes.warned):
        for place, checks in places.items():
            if place not in month.touched:
                yield from checks
    yield from (NEWEST for place in outcomes.superseded if place not in month.touched)
    wrong = {planted.file for planted in month.planted if planted.row is None}
    yield from (_find_file_check(reason) for file, reason in outcomes.rejected.items() if file not in wrong)


def _find_file_check(reason: str) -> str:
    """Return the check that rejected a file.

    Raises:
        LookupError: no check gives this reason.
    """
    for check, beginnings in FILE_CHECKS.items():
        if reason.startswith(beginnings):
            return check
    raise LookupError(f"FILE_CHECKS: no check gives the reason {reason!r} of a rejected file. Add its beginning.")


def read_outcomes(lake: Catalog) -> Outcomes:
    """Read the outcomes of the landed flights from the lake, without Spark."""
    import duckdb

    source = cast(Source, lake.graph.declarations["bronze.flights"])
    zone = lake.get_landing_zone(source)
    logs = {
        "bronze": table_log.open_log(lake.get_path("bronze.flights")),
        "silver": table_log.open_log(lake.get_path("silver.flights")),
        "quarantine": table_log.open_log(lake.get_quarantine_path("silver.flights")),
    }
    warnings = [rule for rule in flights.rules if rule.on_violation != "quarantine"]
    violated = ", ".join(f"NOT coalesce({rule.predicate}, false)" for rule in warnings)
    with duckdb.connect() as database:
        for name, log in logs.items():
            if log is not None:
                database.register(name, log.open_dataset())
        landed = database.execute("SELECT _file_id, _row, _source_file FROM bronze").fetchall()
        published = database.execute(f"SELECT _file_id, _row, {violated} FROM silver").fetchall()
        quarantined = []
        if logs["quarantine"]:
            quarantined = database.execute("SELECT _file_id, _row, rules FROM quarantine").fetchall()
    places = {row[:2]: (_file_name(row[2]), row[1]) for row in landed}
    return Outcomes(
        landed=frozenset(places.values()),
        published=frozenset(places[row[:2]] for row in published),
        quarantined={places[row[:2]]: frozenset(rule.partition(":")[0] for rule in row[2]) for row in quarantined},
        warned={
            places[row[:2]]: frozenset(
                rule.name for rule, is_violated in zip(warnings, row[2:], strict=True) if is_violated
            )
            for row in published
            if any(row[2:])
        },
        rejected={_file_name(file.path): file.reason for file in zone.find_rejected_files(zone.read_history())},
    )


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]
