"""Defects planted in days of flights: none that a check claims is missed, and none is seen where there is none."""

from __future__ import annotations

from datetime import date

import pytest
from pyspark.sql import SparkSession

from benchmarks.scorecard.files import DAY_KINDS, FILE_KINDS
from benchmarks.scorecard.measure import Scorecard


@pytest.fixture(scope="module")
def card(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Scorecard:
    last = date(2013, 1, len(FILE_KINDS) + 1)
    return Scorecard(spark, tmp_path_factory.mktemp("scorecard"), last=last)


def test_no_claimed_defect_is_missed_and_no_alarm_is_false(card: Scorecard) -> None:
    planted = card.planted(each=3)
    assert planted.score.missed() == []
    assert planted.score.false_alarms() == []
    assert planted.differences == ()
    claimed = [name for name, claim in planted.score.claims.items() if claim]
    assert len(claimed) >= 40
    assert planted.rows > 1_000


def test_a_day_in_kilometres_is_refused(card: Scorecard) -> None:
    assert card.spoiled(DAY_KINDS[0])
