"""The planting of defects, their score, and the page with the results."""

from __future__ import annotations

import csv
import io
from datetime import date
from pathlib import Path

import pytest

from benchmarks.scorecard.detection import CHECKS, Outcomes, score_month
from benchmarks.scorecard.files import DAY_KINDS, FILE_KINDS, FileKind, Files
from benchmarks.scorecard.kinds import CLAIMED, UNCLAIMED
from benchmarks.scorecard.plant import plant_defects, read_days, spoil_day
from flights.delivery import deliver
from tests.paths import PROJECT

PAGE = PROJECT / "docs" / "scorecard.md"
# Only a mistake in the code can violate this rule.
NOT_PLANTED = {"scheduled_arrival_follows_departure"}


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Deliver a day for each kind of file, and some more for the rows."""
    landing: Path = tmp_path_factory.mktemp("landing")
    deliver(landing, since=date(2013, 1, 1), until=date(2013, 1, len(FILE_KINDS) + 3))
    return read_days(landing / "flights")


def test_every_check_has_defects_that_it_claims() -> None:
    assert {kind.claim for kind in (*CLAIMED, *FILE_KINDS)} - {None} == CHECKS.keys() - NOT_PLANTED
    assert {kind.claim for kind in UNCLAIMED} == {None}
    names = [kind.name for kind in (*CLAIMED, *UNCLAIMED, *FILE_KINDS, *DAY_KINDS)]
    assert len(set(names)) == len(names)


def test_the_page_lists_every_check_and_every_kind() -> None:
    page = PAGE.read_text(encoding="utf-8")
    cells = {cell.strip(" `") for line in page.splitlines() if line.startswith("|") for cell in line.split("|")}
    expected = {*CHECKS, *(kind.name for kind in (*CLAIMED, *UNCLAIMED, *FILE_KINDS, *DAY_KINDS))}
    assert not expected - cells, "run `make scorecard`"


def test_same_seed_plants_same_defects(days: Files) -> None:
    assert plant_defects(days, 2) == plant_defects(days, 2)
    assert plant_defects(days, 2) != plant_defects(days, 2, seed=1)


def test_rows_without_defects_stay_unchanged(days: Files) -> None:
    month = plant_defects(days, 2)
    landed = {tuple(line.split(",")) for content in days.values() for line in content.decode().splitlines()}
    broken = {defect.file for defect in month.planted if isinstance(defect.kind, FileKind)}
    untouched = 0
    for name in month.files.keys() - broken:
        records = csv.reader(io.StringIO(month.files[name].decode()))
        for number, record in enumerate(records):
            if (name, number) not in month.touched:
                assert tuple(record) in landed, (name, number)
                untouched += 1
    assert untouched > 2_000


def test_spoiled_day_has_defects_throughout(days: Files) -> None:
    content = next(iter(days.values()))
    for kind in DAY_KINDS:
        spoiled = spoil_day(kind, content).splitlines()
        changed = sum(before != after for before, after in zip(content.splitlines(), spoiled, strict=True))
        assert changed > len(spoiled) / kind.every * 0.7, kind.name


def test_missed_defects_and_false_alarms_are_counted(days: Files) -> None:
    """Every landed row is published, except one good row, which is quarantined."""
    month = plant_defects(days, 2)
    rows = {
        (name, n) for name, text in month.files.items() if name.endswith(".csv") for n in range(1, text.count(b"\n"))
    }
    good = min(rows - month.touched)
    quarantined = {good: frozenset({"origin_is_new_york"})}
    result = score_month(month, Outcomes(frozenset(rows), frozenset(rows - {good}), quarantined, {}, {}))
    claimed = {kind.name for kind in (*CLAIMED, *FILE_KINDS) if kind.claim}
    assert set(result.missed()) == claimed
    assert result.false_alarms() == ["origin_is_new_york"]
    assert result.kinds["distance zero"].missed == 2
