"""Population stability index: the distribution of a model's features now, against their distribution in training.

The tests compare with feature-engine's DropHighPSIFeatures. That one computes new bins for every span of days, puts a
feature that is mostly one value into a single bin, and fails on a day without values. So this module counts rows by day
and bin, and the counts of any span are sums.
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
# The days compared with the training as one window: whole weeks, and enough of them to tell drift from weather.
WINDOW_DAYS: Final = 28
# The share that an empty bin counts as. A share of zero would make the index infinite.
EMPTY_SHARE: Final = 1e-4
# The training rows in memory, from which the bins are computed.
SAMPLED_ROWS: Final = 500_000
# The bin of rows without a value. The index leaves it out.
MISSING: Final = -1


def compute_quantile_bins(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the number of each value's bin, for bins that end at `quantiles`."""
    import numpy as np

    return np.searchsorted(ends, values, side="left")


def compute_quantiles(numbers: np.ndarray) -> np.ndarray:
    """Return the inner ends of BINS bins with equally many numbers, or of fewer bins where ends are equal."""
    import numpy as np

    return np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1])) if len(numbers) else np.empty(0)


@dataclass(frozen=True)
class Bins:
    """The bins of a column.

    Attributes:
        ends: for numbers, the quantiles at which bins end.
        categories: for text, the values with a bin each; all other values share one more bin.
    """

    ends: np.ndarray | None = None
    categories: pd.Index | None = None

    @staticmethod
    def from_training(trained: pd.Series) -> Bins:
        import pandas as pd
        from pandas.api.types import is_numeric_dtype

        values = trained.dropna()
        if is_numeric_dtype(trained):
            return Bins(ends=compute_quantiles(values.to_numpy()))
        return Bins(categories=pd.Index(values.unique()))

    def __len__(self) -> int:
        return 1 + len(self.categories if self.ends is None else self.ends)  # type: ignore[arg-type]

    def assign(self, values: pd.Series) -> np.ndarray:
        """Return the number of each value's bin, MISSING where there is no value."""
        import numpy as np
        import pandas as pd

        if self.ends is not None:
            bins = compute_quantile_bins(values.to_numpy(), self.ends)
        else:
            assert self.categories is not None
            bins = self.categories.get_indexer(pd.Index(values))
            bins = np.where(bins < 0, len(self.categories), bins)
        return np.where(values.isna(), MISSING, bins)


def compute_psi(counts: pd.DataFrame, trained: pd.Series) -> pd.Series:
    """Compute the index of each row of ``counts`` against the counts in training; NaN for a row without counts.

    The index is SciPy's relative entropy of current and training shares in both directions: the sum over the bins of
    (current - training) * ln(current / training).

    Args:
        counts: one column per bin.
        trained: the training's count by bin.
    """
    from scipy.special import rel_entr

    current = counts.div(counts.sum(axis=1), axis=0).clip(lower=EMPTY_SHARE)
    training = (trained / trained.sum()).clip(lower=EMPTY_SHARE).to_numpy()
    index: pd.Series = (rel_entr(current, training) + rel_entr(training, current)).sum(axis=1, skipna=False)
    return index


@dataclass(frozen=True)
class Spread:
    """The distribution of one feature: row counts by day and bin, of the training days and of the monitored days."""

    feature: str
    training_counts: pd.DataFrame
    monitored_counts: pd.DataFrame

    def measure_drift(self, span: Span, min_psi: float) -> FeatureDrift:
        """Measure the drift of some monitored days together; only a PSI above ``min_psi`` is drift."""
        days = self.monitored_counts.loc[span[0] : span[1]]
        counts = days.sum().to_frame().T
        index, missing = float(self._compute_psi(counts).iloc[0]), float(_compute_missing_share(counts).iloc[0])
        return FeatureDrift(
            self.feature,
            None if math.isnan(index) else index,
            self._limit(len(days), min_psi),
            missing,
            self._training_missing_share,
        )

    def compute_daily(self, span: Span, min_psi: float) -> pd.DataFrame:
        """Return one row per day: psi and psi_limit of the WINDOW_DAYS up to the day, its missing_share."""
        import pandas as pd

        days = self.monitored_counts.loc[span[0] : span[1]]
        windows = self.monitored_counts.rolling(WINDOW_DAYS, min_periods=1).sum().loc[days.index]
        columns = {"psi": self._compute_psi(windows), "psi_limit": self._limit(WINDOW_DAYS, min_psi)}
        columns |= {
            "missing_share": _compute_missing_share(days),
            "trained_missing_share": self._training_missing_share,
        }
        return pd.DataFrame(columns, index=days.index)

    def _compute_psi(self, counts: pd.DataFrame) -> pd.Series:
        return compute_psi(counts.drop(columns=MISSING), self.training_counts.drop(columns=MISSING).sum())

    def _limit(self, days: int, min_psi: float) -> float:
        """Return the largest PSI of ``days`` consecutive training days against all of them, but at least ``min_psi``.

        Features that follow the season or the calendar move every few weeks, within the training as well.
        """
        windows = self.training_counts.rolling(min(days, len(self.training_counts))).sum().dropna()
        largest = float(self._compute_psi(windows).max())
        return largest if largest > min_psi else min_psi  # NaN where no training row has a value

    @property
    def _training_missing_share(self) -> float:
        return float(_compute_missing_share(self.training_counts.sum().to_frame().T).iloc[0])


def compute_spreads(
    training: FeatureTable, monitored: FeatureTable, columns: Iterable[str], spans: tuple[Span, Span]
) -> Iterator[Spread]:
    """Count the spread of each column in the training rows and in the monitored rows, labelled or not.

    A week of rows is in memory at once, beside at most SAMPLED_ROWS of the training. Bins of larger trainings are
    computed from a sample.

    Args:
        spans: the days in the training's table, and those in the monitored table.
    """
    sample = _sample(training, columns, spans[0])
    bins = {name: Bins.from_training(sample[name]) for name in columns}
    training_counts = _count_by_day(training, bins, spans[0])
    monitored_counts = _count_by_day(monitored, bins, spans[1])
    for name in columns:
        yield Spread(name, training_counts[name], monitored_counts[name])


def _sample(features: FeatureTable, columns: Iterable[str], span: Span) -> pd.DataFrame:
    """Read all rows of a span, or every second, fourth, eighth... of more than SAMPLED_ROWS."""
    import pandas as pd

    parts, step, read = list[pd.DataFrame](), 1, 0
    for rows in features.read_batches(span, columns):
        parts.append(features.read_frame(rows).iloc[-read % step :: step])
        read += rows.num_rows
        while sum(map(len, parts)) > SAMPLED_ROWS:
            parts, step = [part.iloc[::2] for part in parts], step * 2
    return pd.concat(parts, ignore_index=True)


def _count_by_day(features: FeatureTable, bins: Mapping[str, Bins], span: Span) -> dict[str, pd.DataFrame]:
    """Count the rows of each day by bin, the first of which is MISSING, for each column."""
    import numpy as np
    import pandas as pd

    days, time = pd.date_range(*span), features.task.time_column
    counts = {name: np.zeros(len(days) * (len(column_bins) + 1), dtype=int) for name, column_bins in bins.items()}
    for rows in features.read_batches(span, [time, *bins]):
        frame = features.read_frame(rows)
        day_numbers = (pd.to_datetime(frame[time]) - days[0]).dt.days.to_numpy()
        for name, column_bins in bins.items():
            cells = day_numbers * (len(column_bins) + 1) + column_bins.assign(frame[name]) - MISSING
            counts[name] += np.bincount(cells, minlength=len(counts[name]))
    columns = {name: range(MISSING, len(column_bins)) for name, column_bins in bins.items()}
    return {
        name: pd.DataFrame(cells.reshape(len(days), -1), index=days, columns=columns[name])
        for name, cells in counts.items()
    }


def _compute_missing_share(counts: pd.DataFrame) -> pd.Series:
    share: pd.Series = counts[MISSING] / counts.sum(axis=1)
    return share
