"""The gate of the champion: is a new model better than the one in service, on rows that neither was fitted to?

These are the rows of the choose split, by which candidates were chosen and networks stopped, the champion's mostly as well. That
flatters who was chosen by them, the more the more was tried: the margin is not corrected for it, and the report split, which
nothing is chosen by, has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

    from lakehouse.features import Rows

RESAMPLES: Final = 2_000
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Verdict:
    """Two Brier scores on the same rows, and the interval of their difference, new less old."""

    new: float
    old: float
    low: float
    high: float
    held: str

    @property
    def better(self) -> bool:
        """Whether the whole interval says so."""
        return self.high < 0

    def reason(self, other: str) -> str:
        found = "is" if self.better else "is not surely"
        return (
            f"Brier score {self.new:.6f} on {self.held} {found} below {self.old:.6f} of {other}: the difference is between "
            f"{self.low:+.6f} and {self.high:+.6f} in {CONFIDENCE:.0%} of samples of the days"
        )


def compare(held: Rows, new: np.ndarray, old: np.ndarray, seed: int = 0) -> Verdict:
    """Compare two models' probabilities for the rows held out, in their order.

    The interval is a percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13) over whole days:
    the rows of a day share their weather and their luck, so that drawing them one by one would show a better model where there
    is only a lucky day. A single day decides nothing.
    """
    import numpy as np
    from scipy.stats import bootstrap

    errors = [(np.asarray(probability) - held.label) ** 2 for probability in (new, old)]
    _, day = np.unique(held.days, return_inverse=True)
    gain, rows = np.bincount(day, errors[0] - errors[1]), np.bincount(day)
    low, high = -np.inf, np.inf
    if len(rows) > 1:
        interval = bootstrap(
            (gain, rows),
            lambda gain, rows, axis: gain.sum(axis) / rows.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=seed,
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    said = f"{held.rows:,} rows of {held.span[0]} to {held.span[1]}"
    return Verdict(float(errors[0].mean()), float(errors[1].mean()), low, high, said)
