"""The measurements: the untouched month, the month with defects, and days that went wrong as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.scorecard.files import DAY_KINDS, DayKind, Files
from benchmarks.scorecard.lakes import build
from benchmarks.scorecard.plant import Month, plant, read_days, spoil_day
from benchmarks.scorecard.score import Score, look, score
from flights import delivery
from lakehouse.quality.reconcile import reconcile
from lakehouse.runs.scheduler import RunReport

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST, LAST = date(2013, 1, 1), date(2013, 1, 31)


@dataclass(frozen=True)
class Measured:
    """One month: its rows, the score, what `reconcile` says does not add up."""

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

    def untouched(self) -> Measured:
        return self._measured("untouched", Month(self.days))

    def planted(self, each: int) -> Measured:
        """So many defects of each kind of row, one of each kind of file."""
        return self._measured("planted", plant(self.days, each))

    def spoiled(self, kind: DayKind) -> bool:
        """Whether the expectation that claims so refuses a day in which every row went wrong."""
        name, content = next(iter(self.days.items()))
        _, report = build(self.spark, self.scratch / "spoiled", {name: spoil_day(kind, content)}, self.airports)
        type_name, column = kind.claim
        return f"{type_name}({f'column={column!r}' if column else ''}" in _refusal(report)

    def all_spoiled(self) -> Mapping[str, bool]:
        return {kind.name: self.spoiled(kind) for kind in DAY_KINDS}

    def _measured(self, name: str, month: Month) -> Measured:
        lake, report = build(self.spark, self.scratch / name, month.files, self.airports)
        if refused := _refusal(report):
            raise RuntimeError(f"The {name} month was not published, so nothing can be counted: {refused}")
        found = look(lake)
        differences = tuple(f"{one.table} {said}" for one in reconcile(lake) for said in one.differences)
        return Measured(len(found.landed), len(month.files), score(month, found), differences)


def _refusal(report: RunReport) -> str:
    """Why a table was not written; empty where each was."""
    return "; ".join(one.describe_failure() for one in report.results if one.status == "failed")
