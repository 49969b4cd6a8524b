"""The results of a run, and the callbacks for its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from lakehouse.plan.steps import Step
from lakehouse.writes.outcome import Outcome

Status = Literal["written", "unchanged", "failed", "skipped", "blocked"]


@dataclass(frozen=True)
class TableResult:
    """Result of one table in a run."""

    table: str
    status: Status
    step: Step | None = None
    outcome: Outcome | None = None
    seconds: float = 0.0
    error: str = ""

    def describe_failure(self) -> str:
        """Return the error after the name of the table. An error that begins with the name does not repeat it."""
        return f"{self.table}: {self.error.removeprefix(f'{self.table}: ')}"


@dataclass(frozen=True)
class RunReport:
    """Results of a run's tables."""

    run: str
    results: tuple[TableResult, ...]
    seconds: float

    @property
    def has_failed(self) -> bool:
        """Return whether any table failed or was skipped."""
        return any(result.status in ("failed", "skipped") for result in self.results)

    @property
    def has_rejects(self) -> bool:
        """Return whether the run rejected a file or quarantined a row."""
        outcomes = [result.outcome for result in self.results if result.outcome]
        return any(outcome.rejected_files or outcome.rows.get("quarantined") for outcome in outcomes)


@dataclass
class RunListener:
    """Callbacks for the progress of a run: the start and the end of each table."""

    on_table_start: Callable[[str], None] = field(default=lambda table: None)
    on_table_end: Callable[[TableResult], None] = field(default=lambda result: None)
