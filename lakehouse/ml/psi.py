"""How the values of a model's features are spread now, against how they were spread in its training: the population stability index.

feature-engine's DropHighPSIFeatures, which the tests compare with, finds the bins anew for every span of days, sees nothing in a
feature that is mostly one value (its ten bins become one), and fails where a day has no value. So the counts are kept here by
day: of any span they are sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lakehouse.ml.limits import FeatureDrift

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lakehouse.ml.dataset import FeatureTable
    from lakehouse.ml.task import Span

BINS: Final = 10
# How many days together are compared with the training: whole weeks, and enough of them to tell drift from weather.
WINDOW_DAYS: Final = 28
# The share that an empty bin counts as: of none at all the index would be infinite.
EMPTY_SHARE: Final = 1e-4
# Of a training's rows so many are held in memory, to find where bins end.
SAMPLED_ROWS: Final = 500_000
# The bin of rows that have no value; it is no part of the index.
MISSING: Final = -1


def quantile_bins(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The number of each value's bin, of bins that end at `quantiles`."""
    import numpy as np

    return np.searchsorted(ends, values, side="left")


def quantiles(numbers: np.ndarray) -> np.ndarray:
    """Where bins of equally many numbers end, but the last: BINS of them, or fewer where some are alike."""
    import numpy as np

    return np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1])) if len(numbers) else np.empty(0)


@dataclass(frozen=True)
class Bins:
    """The bins of a column: of numbers they end at quantiles; of text each value is one, and all that are not ``known`` are one more."""

    ends: np.ndarray | None = None
    categories: pd.Index | None = None

    @staticmethod
    def from_training(trained: pd.Series) -> Bins:
        import pandas as pd
        from pandas.api.types import is_numeric_dtype

        values = trained.dropna()
        if is_numeric_dtype(trained):
            return Bins(ends=quantiles(values.to_numpy()))
        return Bins(categories=pd.Index(values.unique()))

    def __len__(self) -> int:
        return 1 + len(self.categories if self.ends is None else self.ends)  # type: ignore[arg-type]

    def assign(self, values: pd.Series) -> np.ndarray:
        """The number of each value's bin, MISSING where there is none."""
        import numpy as np
        import pandas as pd

        if self.ends is not None:
            found = quantile_bins(values.to_numpy(), self.ends)
        else:
            assert self.categories is not None
            found = self.categories.get_indexer(pd.Index(values))
            found = np.where(found < 0, len(self.categories), found)
        return np.where(values.isna(), MISSING, found)


def compute_psi(counts: pd.DataFrame, trained: pd.Series) -> pd.Series:
    """The index of each row of ``counts``, rows by bin, against the counts in training; NaN for a row that counts nothing.

    It is the relative entropy (of SciPy) of the shares now and then, both ways: the sum over the bins of
    (now - then) * ln(now / then).
    """
    from scipy.special import rel_entr

    now = counts.div(counts.sum(axis=1), axis=0).clip(lower=EMPTY_SHARE)
    then = (trained / trained.sum()).clip(lower=EMPTY_SHARE).to_numpy()
    index: pd.Series = (rel_entr(now, then) + rel_entr(then, now)).sum(axis=1, skipna=False)
    return index


@dataclass(frozen=True)
class Spread:
    """How the values of one feature are spread: the rows of each day by bin, of the training days and of those that are watched."""

    feature: str
    training_counts: pd.DataFrame
    monitored_counts: pd.DataFrame

    def measure_drift(self, span: Span, min_psi: float) -> FeatureDrift:
        """The rows of some watched days together; ``least`` is the lowest PSI that may count as drift."""
        days = self.monitored_counts.loc[span[0] : span[1]]
        counts = days.sum().to_frame().T
        index, missing = float(self._psi(counts).iloc[0]), float(_missing_share(counts).iloc[0])
        return FeatureDrift(
            self.feature,
            None if math.isnan(index) else index,
            self._limit(len(days), min_psi),
            missing,
            self._training_missing_share,
        )

    def daily(self, span: Span, min_psi: float) -> pd.DataFrame:
        """A row for each day: psi and psi_limit are those of the WINDOW_DAYS up to it, missing_share is its own."""
        import pandas as pd

        days = self.monitored_counts.loc[span[0] : span[1]]
        together = self.monitored_counts.rolling(WINDOW_DAYS, min_periods=1).sum().loc[days.index]
        columns = {"psi": self._psi(together), "psi_limit": self._limit(WINDOW_DAYS, min_psi)}
        columns |= {"missing_share": _missing_share(days), "trained_missing_share": self._training_missing_share}
        return pd.DataFrame(columns, index=days.index)

    def _psi(self, counts: pd.DataFrame) -> pd.Series:
        return compute_psi(counts.drop(columns=MISSING), self.training_counts.drop(columns=MISSING).sum())

    def _limit(self, days: int, min_psi: float) -> float:
        """How far the furthest so many days in a row of the training are from all of it, but at least ``least``.

        What goes with the season or the calendar is elsewhere in every few weeks, in those of the training as well.
        """
        few = self.training_counts.rolling(min(days, len(self.training_counts))).sum().dropna()
        furthest = float(self._psi(few).max())
        return furthest if furthest > min_psi else min_psi  # NaN where no training row has a value

    @property
    def _training_missing_share(self) -> float:
        return float(_missing_share(self.training_counts.sum().to_frame().T).iloc[0])


def spreads(
    training: FeatureTable, monitored: FeatureTable, columns: Iterable[str], spans: tuple[Span, Span]
) -> Iterator[Spread]:
    """The spread of each column in the rows of the first span in the one table, of the second in the other, labelled or not.

    A week of rows is in memory at once, and beside it SAMPLED_ROWS of the training: of more, bins end at the quantiles of a sample.
    """
    sample = _sample(training, columns, spans[0])
    bins = {name: Bins.from_training(sample[name]) for name in columns}
    then, now = (_count_by_day(one, bins, span) for one, span in zip((training, monitored), spans, strict=True))
    for name in columns:
        yield Spread(name, then[name], now[name])


def _sample(features: FeatureTable, columns: Iterable[str], span: Span) -> pd.DataFrame:
    """All rows of a span, or every second, fourth, eighth... where they are more than SAMPLED_ROWS."""
    import pandas as pd

    kept, step, seen = list[pd.DataFrame](), 1, 0
    for rows in features.batches(span, columns):
        kept.append(features.frame(rows).iloc[-seen % step :: step])
        seen += rows.num_rows
        while sum(map(len, kept)) > SAMPLED_ROWS:
            kept, step = [one.iloc[::2] for one in kept], step * 2
    return pd.concat(kept, ignore_index=True)


def _count_by_day(features: FeatureTable, bins: Mapping[str, Bins], span: Span) -> dict[str, pd.DataFrame]:
    """How many rows of each day are in each bin, the first of which is MISSING, by column."""
    import numpy as np
    import pandas as pd

    every, time = pd.date_range(*span), features.task.time_column
    counts = {name: np.zeros(len(every) * (len(of) + 1), dtype=int) for name, of in bins.items()}
    for rows in features.batches(span, [time, *bins]):
        frame = features.frame(rows)
        days = (pd.to_datetime(frame[time]) - every[0]).dt.days.to_numpy()
        for name, of in bins.items():
            place = days * (len(of) + 1) + of.assign(frame[name]) - MISSING
            counts[name] += np.bincount(place, minlength=len(counts[name]))
    columns = {name: range(MISSING, len(of)) for name, of in bins.items()}
    return {
        name: pd.DataFrame(found.reshape(len(every), -1), index=every, columns=columns[name])
        for name, found in counts.items()
    }


def _missing_share(counts: pd.DataFrame) -> pd.Series:
    share: pd.Series = counts[MISSING] / counts.sum(axis=1)
    return share
