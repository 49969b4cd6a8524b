"""The planting of defects, and the page that says what caught them."""

from __future__ import annotations

import csv
import io
from datetime import date
from pathlib import Path

import pytest

from benchmarks.scorecard.files import DAY_KINDS, FILE_KINDS, FileKind, Files
from benchmarks.scorecard.kinds import CLAIMED, UNCLAIMED
from benchmarks.scorecard.plant import plant, read_days, spoil_day
from benchmarks.scorecard.score import CHECKS, Found, score
from flights.delivery import deliver
from tests.paths import PROJECT

PAGE = PROJECT / "docs" / "scorecard.md"
# It can be broken by a mistake in the code alone.
NOT_PLANTED = {"scheduled_arrival_follows_departure"}


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Each kind of file takes a day, and some are left for the rows."""
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
    named = {*CHECKS, *(kind.name for kind in (*CLAIMED, *UNCLAIMED, *FILE_KINDS, *DAY_KINDS))}
    assert not named - cells, "run `make scorecard`"


def test_the_same_seed_plants_the_same(days: Files) -> None:
    assert plant(days, 2) == plant(days, 2)
    assert plant(days, 2) != plant(days, 2, seed=1)


def test_what_is_not_planted_stays_as_it_was(days: Files) -> None:
    month = plant(days, 2)
    landed = {tuple(line.split(",")) for content in days.values() for line in content.decode().splitlines()}
    broken = {one.file for one in month.planted if isinstance(one.kind, FileKind)}
    untouched = 0
    for name in month.files.keys() - broken:
        records = csv.reader(io.StringIO(month.files[name].decode()))
        for number, record in enumerate(records):
            if (name, number) not in month.touched:
                assert tuple(record) in landed, (name, number)
                untouched += 1
    assert untouched > 2_000


def test_a_day_is_spoiled_throughout(days: Files) -> None:
    content = next(iter(days.values()))
    for kind in DAY_KINDS:
        spoiled = spoil_day(kind, content).splitlines()
        changed = sum(one != other for one, other in zip(content.splitlines(), spoiled, strict=True))
        assert changed > len(spoiled) / kind.every * 0.7, kind.name


def test_what_is_missed_and_what_is_a_false_alarm_is_counted(days: Files) -> None:
    """Everything is kept as it was landed, but for one good row, which is set aside."""
    month = plant(days, 2)
    rows = {
        (name, n) for name, text in month.files.items() if name.endswith(".csv") for n in range(1, text.count(b"\n"))
    }
    good = min(rows - month.touched)
    found = Found(frozenset(rows), frozenset(rows - {good}), {good: frozenset({"origin_is_new_york"})}, {}, {})
    result = score(month, found)
    claimed = {kind.name for kind in (*CLAIMED, *FILE_KINDS) if kind.claim}
    assert set(result.missed()) == claimed
    assert result.false_alarms() == ["origin_is_new_york"]
    assert result.kinds["distance zero"].missed == 2
