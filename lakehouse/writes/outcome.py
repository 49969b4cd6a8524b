"""The result of one step: row counts by outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lakehouse.landing.manifest import RejectedFile


@dataclass(frozen=True)
class Outcome:
    """Result of one step.

    Attributes:
        rows: Row counts by outcome (written, unchanged, ...).
        partitions: Number of replaced partitions.
        rejected_files: Files that the step rejected.
        warnings: Violations of each rule that only warns.
        is_committed: False where the step had nothing to commit.
        contract: Changes that the source's contract made for files with other columns.
    """

    rows: Mapping[str, int]
    partitions: int | None = None
    rejected_files: tuple[RejectedFile, ...] = ()
    warnings: Mapping[str, int] = field(default_factory=dict)
    is_committed: bool = True
    contract: tuple[str, ...] = ()


def sum_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """Sum the outcomes of a step that took several commits."""
    rows, warnings = Counter[str](), Counter[str]()
    for outcome in outcomes:
        rows.update(outcome.rows)
        warnings.update(outcome.warnings)
    replaced = [outcome.partitions for outcome in outcomes if outcome.partitions is not None]
    return Outcome(
        rows,
        sum(replaced) if replaced else None,
        tuple(file for outcome in outcomes for file in outcome.rejected_files),
        warnings,
        any(outcome.is_committed for outcome in outcomes),
        tuple(dict.fromkeys(text for outcome in outcomes for text in outcome.contract)),
    )
