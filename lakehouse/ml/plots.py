"""Plots of a model's quality, as matplotlib figures without a window. They need not be closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#c8641b", "#4b8b3b", "#7a4fa0")
GREY = "#6b6b6b"
BINS = 10


def draw_calibration(label: np.ndarray, probabilities: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw the observed share of true labels by predicted probability.

    The upper axes have scikit-learn's calibration curve of ten equally wide bins, with 95 % Wilson intervals. The lower
    axes have the rows in each bin.

    Args:
        label: Booleans, or numbers that are 0 or 1.
        probabilities: One array in the label's row order for each curve, by the curve's text in the legend.
        title: Title of the figure.
    """
    import numpy as np
    from matplotlib.ticker import PercentFormatter

    figure, (upper, lower) = _make_subplots(7.2, nrows=2, sharex=True, height_ratios=(3, 1.4))
    for index, (name, probability) in enumerate(probabilities.items()):
        colour = COLOURS[index % len(COLOURS)]
        counts = _count_by_bin(probability)
        _draw_curve(upper, label, probability, counts, colour, name)
        width = 0.8 / BINS / len(probabilities)
        centres = (np.arange(BINS) + 0.5) / BINS + (index - (len(probabilities) - 1) / 2) * width
        bars = lower.bar(centres, counts, width, color=colour, label=name)
        lower.bar_label(bars, [f"{n:,}" if n else "" for n in counts], fontsize=6.5, rotation=90, padding=2)
    rate = float(np.mean(label))
    upper.axhline(rate, color=GREY, linestyle="--", linewidth=1, label=f"Share of all rows ({rate:.1%})")
    upper.set(title=title, xlabel="", ylabel="Observed share", xlim=(0, 1), ylim=(0, 1))
    lower.set(xlabel="Predicted probability", ylabel="Rows in bin (log scale)", yscale="log")
    lower.set_ylim(0.7, lower.get_ylim()[1] * 30)
    lower.minorticks_off()
    lower.set_xticks(np.linspace(0, 1, BINS + 1))
    for axis in (upper.xaxis, upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1))
    upper.grid(alpha=0.25)
    upper.legend(loc="upper left", frameon=False)
    return figure


def _draw_curve(
    axes: Axes, label: np.ndarray, probability: np.ndarray, counts: np.ndarray, colour: str, name: str
) -> None:
    """Draw a calibration curve, and the intervals that scikit-learn's display lacks."""
    import numpy as np
    from scipy.stats import binomtest
    from sklearn.calibration import CalibrationDisplay

    style = {"color": colour, "marker": "o", "markersize": 5}
    display = CalibrationDisplay.from_predictions(label, probability, n_bins=BINS, name=name, ax=axes, **style)
    rows = counts[counts > 0]
    tests = [binomtest(round(share * n), int(n)) for share, n in zip(display.prob_true, rows, strict=True)]
    bounds = np.array([test.proportion_ci(method="wilson") for test in tests]).T
    axes.errorbar(
        display.prob_pred, display.prob_true, np.abs(bounds - display.prob_true), fmt="none", ecolor=colour, capsize=3
    )


def _count_by_bin(probability: np.ndarray) -> np.ndarray:
    """Count the rows in each bin. Bins include their upper edge, as scikit-learn's do."""
    import numpy as np

    return np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability), minlength=BINS)


def draw_importance(names: Sequence[str], importances: np.ndarray, title: str, most: int = 25) -> Figure:
    """Draw the rise of the Brier score when a column is shuffled, largest first.

    Columns with the same information replace each other, so each of them looks less important. scikit-learn has
    no display for permutation importance.

    Args:
        names: Names of the columns.
        importances: One row for each name and one column for each shuffle. The whiskers span the shuffles.
        title: Title of the figure.
        most: Number of columns to draw.
    """
    import numpy as np

    order = np.argsort(importances.mean(axis=1), kind="stable")[::-1][:most][::-1]
    mean = importances.mean(axis=1)[order]
    whiskers = np.abs(np.stack((importances.min(axis=1)[order], importances.max(axis=1)[order])) - mean)
    figure, axes = _make_subplots(1.4 + 0.26 * len(order))
    axes.barh([names[i] for i in order], mean, xerr=whiskers, color=COLOURS[0], ecolor=GREY, capsize=2)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.margins(y=0.01)
    axes.set(title=title, xlabel="Rise of the Brier score when the column is shuffled")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    return figure


def draw_learning_curve(curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """Draw metrics after each step of a fit.

    scikit-learn's LearningCurveDisplay shows something else: scores by number of training rows.

    Args:
        curves: Pairs of step and value, by the metric's name.
        title: Title of the figure.
    """
    figure, axes = _make_subplots(4.2)
    for index, (name, values) in enumerate(curves.items()):
        steps, heights = zip(*values, strict=True)
        axes.plot(steps, heights, color=COLOURS[index % len(COLOURS)], marker=".", label=name)
    axes.set(title=title, xlabel="Step", ylabel="Metric")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def _make_subplots(height: float, **layout: Any) -> tuple[Figure, Any]:
    """Create a figure and its axes without pyplot, which shares state between threads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), dpi=110, layout="constrained")
    axes = figure.subplots(**layout)
    for part in figure.axes:
        part.spines[["top", "right"]].set_visible(False)
    return figure, axes
