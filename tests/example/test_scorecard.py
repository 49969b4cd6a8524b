"""Defects planted in days of flights: no claimed defect is missed, and no alarm is false."""

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


def test_no_defect_missed_and_no_false_alarm(card: Scorecard) -> None:
    planted = card.measure_planted(each=3)
    assert planted.score.missed() == []
    assert planted.score.false_alarms() == []
    assert planted.differences == ()
    claimed = [name for name, claim in planted.score.claims.items() if claim]
    assert len(claimed) >= 40
    assert planted.rows > 1_000


def test_a_day_in_kilometres_is_refused(card: Scorecard) -> None:
    assert card.is_refused(DAY_KINDS[0])
