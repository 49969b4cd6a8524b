"""How the values of a model's features are spread now, against how they were spread in its training: the population stability index.

feature-engine's DropHighPSIFeatures, which the tests compare with, finds the bins anew for every span of days, sees nothing in a
feature that is mostly one value (its ten bins become one), and fails where a day has no value. So the counts are kept here by
day: of any span they are sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lakehouse.limits import Moved

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lakehouse.features import Features, Span

BINS: Final = 10
# How many days together are compared with the training: whole weeks, and enough of them to tell drift from weather.
WINDOW_DAYS: Final = 28
# The share that an empty bin counts as: of none at all the index would be infinite.
EMPTY: Final = 1e-4
# The bin of rows that have no value; it is no part of the index.
MISSING: Final = -1


def quantile_bins(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The number of each value's bin, of bins that end at the quantiles ``of`` some numbers: BINS, or fewer where some are alike."""
    import numpy as np

    ends = np.unique(np.quantile(of, np.linspace(0, 1, BINS + 1)[1:-1])) if len(of) else np.empty(0)
    return np.searchsorted(ends, values, side="left")


def bins_of(values: pd.Series, trained: pd.Series) -> np.ndarray:
    """The number of each value's bin, MISSING where there is none.

    Numbers go to `quantile_bins` of ``trained``. Of text each value is a bin, and all that ``trained`` does not have are one more.
    """
    import numpy as np
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    known = trained.dropna()
    if is_numeric_dtype(trained):
        found = quantile_bins(values.to_numpy(), known.to_numpy())
    else:
        index = pd.Index(known.unique())
        found = index.get_indexer(pd.Index(values))
        found = np.where(found < 0, len(index), found)
    return np.where(values.isna(), MISSING, found)


def psi(counts: pd.DataFrame, trained: pd.Series) -> pd.Series:
    """The index of each row of ``counts``, rows by bin, against the counts in training; NaN for a row that counts nothing.

    It is the sum over the bins of (now - then) * ln(now / then), both shares of the rows.
    """
    import numpy as np

    now = counts.div(counts.sum(axis=1), axis=0).clip(lower=EMPTY)
    then = (trained / trained.sum()).clip(lower=EMPTY)
    index: pd.Series = ((now - then) * np.log(now / then)).sum(axis=1, skipna=False)
    return index


@dataclass(frozen=True)
class Spread:
    """How the values of one feature are spread: the rows of each day by bin, of the training days and of those that are watched."""

    feature: str
    trained: pd.DataFrame
    watched: pd.DataFrame

    def over(self, span: Span, least: float) -> Moved:
        """The rows of some watched days together; ``least`` is the lowest PSI that may count as drift."""
        days = self.watched.loc[span[0] : span[1]]
        counts = days.sum().to_frame().T
        index, missing = float(self._psi(counts).iloc[0]), float(_missing(counts).iloc[0])
        return Moved(
            self.feature, None if math.isnan(index) else index, self._limit(len(days), least), missing, self._missed
        )

    def daily(self, span: Span, least: float) -> pd.DataFrame:
        """A row for each day: psi and psi_limit are those of the WINDOW_DAYS up to it, missing_share is its own."""
        import pandas as pd

        days = self.watched.loc[span[0] : span[1]]
        together = self.watched.rolling(WINDOW_DAYS, min_periods=1).sum().loc[days.index]
        columns = {"psi": self._psi(together), "psi_limit": self._limit(WINDOW_DAYS, least)}
        columns |= {"missing_share": _missing(days), "trained_missing_share": self._missed}
        return pd.DataFrame(columns, index=days.index)

    def _psi(self, counts: pd.DataFrame) -> pd.Series:
        return psi(counts.drop(columns=MISSING), self.trained.drop(columns=MISSING).sum())

    def _limit(self, days: int, least: float) -> float:
        """How far the furthest so many days in a row of the training are from all of it, but at least ``least``.

        What goes with the season or the calendar is elsewhere in every few weeks, in those of the training as well.
        """
        few = self.trained.rolling(min(days, len(self.trained))).sum().dropna()
        furthest = float(self._psi(few).max())
        return furthest if furthest > least else least  # NaN where no training row has a value

    @property
    def _missed(self) -> float:
        return float(_missing(self.trained.sum().to_frame().T).iloc[0])


def spreads(trained: Features, watched: Features, columns: Iterable[str], spans: tuple[Span, Span]) -> Iterator[Spread]:
    """The spread of each column in the rows of the first span in the one table, of the second in the other, labelled or not."""
    columns = list(columns)
    frames = [
        one.frame(one.read(span, [one.task.time, *columns]))
        for one, span in zip((trained, watched), spans, strict=True)
    ]
    for name in columns:
        bins = [bins_of(frame[name], frames[0][name]) for frame in frames]
        width = max(int(one.max(initial=0)) for one in bins) + 2
        yield Spread(
            name, *(_by_day(f[trained.task.time], b, s, width) for f, b, s in zip(frames, bins, spans, strict=True))
        )


def _by_day(days: pd.Series, bins: np.ndarray, span: Span, width: int) -> pd.DataFrame:
    """How many rows of each day are in each bin, the first of which is MISSING."""
    import numpy as np
    import pandas as pd

    every = pd.date_range(*span)
    place = (pd.to_datetime(days) - every[0]).dt.days.to_numpy() * width + bins - MISSING
    counts = np.bincount(place, minlength=len(every) * width).reshape(len(every), width)
    return pd.DataFrame(counts, index=every, columns=range(MISSING, width + MISSING))


def _missing(counts: pd.DataFrame) -> pd.Series:
    share: pd.Series = counts[MISSING] / counts.sum(axis=1)
    return share
