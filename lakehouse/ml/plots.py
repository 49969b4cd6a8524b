"""Plots of a model's quality, as matplotlib figures that nobody has to close (no pyplot, no display)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#c8641b", "#4b8b3b", "#7a4fa0")
GREY = "#6b6b6b"
BINS = 10


def plot_calibration(label: np.ndarray, probabilities: Mapping[str, np.ndarray], title: str) -> Figure:
    """Does a predicted chance of 30 % happen 30 % of the time?

    Above, the observed share against the mean prediction in each of ten equally wide bins, with 95 % Wilson intervals;
    below, how many rows fall into each bin. ``probabilities`` holds one array, in the label's row order, by legend text.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7.2, 7.2), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
    upper.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    rate = float(np.mean(label))
    upper.axhline(rate, color=GREY, linestyle=":", linewidth=1, label=f"share of all rows ({rate:.1%})")
    width = 0.8 / BINS / len(probabilities)
    for place, (name, probability) in enumerate(probabilities.items()):
        colour = COLOURS[place % len(COLOURS)]
        bins = np.clip((np.asarray(probability) * BINS).astype(int), 0, BINS - 1)
        count = np.bincount(bins, minlength=BINS)
        filled = count > 0
        predicted = np.bincount(bins, probability, BINS)[filled] / count[filled]
        observed = np.bincount(bins, label, BINS)[filled] / count[filled]
        low, high = _wilson(observed, count[filled])
        errors = np.clip((observed - low, high - observed), 0, None)
        upper.errorbar(predicted, observed, errors, color=colour, marker="o", markersize=5, capsize=3, label=name)
        at = (np.arange(BINS) + 0.5) / BINS + (place - (len(probabilities) - 1) / 2) * width
        bars = lower.bar(at, count, width, color=colour, label=name)
        lower.bar_label(bars, [f"{n:,}" if n else "" for n in count], fontsize=6.5, rotation=90, padding=2)
    upper.set(title=title, ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    lower.set(xlabel="predicted probability", ylabel="rows in bin (log scale)", yscale="log")
    lower.set_ylim(0.7, lower.get_ylim()[1] * 30)
    lower.minorticks_off()
    lower.set_xticks(np.linspace(0, 1, BINS + 1))
    for axes in (upper.xaxis, upper.yaxis, lower.xaxis):
        axes.set_major_formatter(PercentFormatter(1))
    upper.grid(alpha=0.25)
    upper.legend(loc="upper left", frameon=False)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_importance(names: Sequence[str], rise: np.ndarray, title: str, max_features: int = 25) -> Figure:
    """How much worse the Brier score gets when one column is shuffled, largest first.

    ``rise`` holds one row per name and one column per shuffle; the whisker spans the shuffles. Columns that say the same
    thing stand in for each other, so that each alone looks less important than it is.
    """
    import numpy as np
    from matplotlib.figure import Figure

    order = np.argsort(rise.mean(axis=1), kind="stable")[::-1][:max_features][::-1]
    mean = rise.mean(axis=1)[order]
    whiskers = np.abs(np.stack((rise.min(axis=1)[order], rise.max(axis=1)[order])) - mean)
    figure = Figure(figsize=(7.2, 1.4 + 0.26 * len(order)), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.barh([names[i] for i in order], mean, xerr=whiskers, color=COLOURS[0], ecolor=GREY, capsize=2)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.margins(y=0.01)
    axes.set(title=title, xlabel="rise of the Brier score when the column is shuffled")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_learning(curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> Figure:
    """How a model did after each step of its fitting: a line per measure, of (step, value)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for place, (name, values) in enumerate(curves.items()):
        steps, heights = zip(*values, strict=True)
        axes.plot(steps, heights, color=COLOURS[place % len(COLOURS)], marker=".", label=name)
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % Wilson interval of a share of ``count`` rows: honest for small bins and for shares near 0 and 1."""
    import numpy as np

    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half
