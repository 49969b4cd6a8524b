"""The measurements: the untouched month, the month with defects, and days with a defect in every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.scorecard.detection import Score, read_outcomes, score_month
from benchmarks.scorecard.files import DAY_KINDS, DayKind, Files
from benchmarks.scorecard.lakes import build_lake
from benchmarks.scorecard.plant import Month, plant_defects, read_days, spoil_day
from flights import delivery
from lakehouse.quality.reconciliation import reconcile
from lakehouse.runs.report import RunReport

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST, LAST = date(2013, 1, 1), date(2013, 1, 31)


@dataclass(frozen=True)
class Measured:
    """Measurement of one month: its rows and files, the score, and the differences that `reconcile` reports."""

    rows: int
    files: int
    score: Score
    differences: tuple[str, ...]


class Scorecard:
    """The measurements on the days from the first to the last, with lakes below a folder."""

    def __init__(self, spark: SparkSession, scratch: Path, first: date = FIRST, last: date = LAST) -> None:
        self.spark, self.scratch = spark, scratch
        delivery.deliver(scratch / "landing", since=first, until=last)
        days = read_days(scratch / "landing" / "flights")
        self.days: Files = {
            name: days[name] for name in days if f"flights_{first}.csv" <= name <= f"flights_{last}.csv"
        }
        self.airports = read_days(scratch / "landing" / "airports")

    def measure_untouched(self) -> Measured:
        return self._measure("untouched", Month(self.days))

    def measure_planted(self, each: int) -> Measured:
        """Measure the month with ``each`` defects of each kind of row and one of each kind of file."""
        return self._measure("planted", plant_defects(self.days, each))

    def is_refused(self, kind: DayKind) -> bool:
        """Check that the claimed expectation refuses a day with this defect."""
        name, content = next(iter(self.days.items()))
        _, report = build_lake(self.spark, self.scratch / "spoiled", {name: spoil_day(kind, content)}, self.airports)
        type_name, column = kind.claim
        return f"{type_name}({f'column={column!r}' if column else ''}" in _refusal(report)

    def refused_kinds(self) -> Mapping[str, bool]:
        return {kind.name: self.is_refused(kind) for kind in DAY_KINDS}

    def _measure(self, name: str, month: Month) -> Measured:
        lake, report = build_lake(self.spark, self.scratch / name, month.files, self.airports)
        if refused := _refusal(report):
            raise RuntimeError(f"{name} month: a table was not written. Correct the cause: {refused}")
        outcomes = read_outcomes(lake)
        differences = tuple(f"{entry.table} {text}" for entry in reconcile(lake) for text in entry.differences)
        return Measured(len(outcomes.landed), len(month.files), score_month(month, outcomes), differences)


def _refusal(report: RunReport) -> str:
    """Return the reasons for which tables were not written; empty if all were."""
    return "; ".join(result.describe_failure() for result in report.results if result.status == "failed")
