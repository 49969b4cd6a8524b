"""Plots of a model's quality: the numbers in them, and that pyplot holds none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot

from lakehouse.ml import plots

# Two bins: 4 rows of 4 % to 10 % (the bin's upper edge), of which 1 is late, and 6 rows of 85 %, of which 5 are.
PROBABILITY = np.array([0.04, 0.06, 0.08, 0.1] + [0.85] * 6)
LATE = np.array([True, False, False, False] + [True] * 5 + [False])


def test_calibration_shows_observed_shares_with_intervals() -> None:
    upper, _ = plots.draw_calibration(LATE, {"Model": PROBABILITY}, "Calibration").axes
    curve = next(line for line in upper.lines if line.get_label() == "Model")
    (intervals,) = upper.containers[0][2]

    assert curve.get_xydata() == pytest.approx(np.array([(0.07, 1 / 4), (0.85, 5 / 6)]))
    bounds = [(low, high) for (_, low), (_, high) in intervals.get_segments()]
    # Wilson's 95 % intervals for 1 of 4 and 5 of 6.
    assert np.array(bounds) == pytest.approx(np.array([(0.04559, 0.69936), (0.43650, 0.96995)]), abs=1e-4)
    texts = [text.get_text() for text in upper.get_legend().get_texts()]
    assert texts == ["Perfectly calibrated", "Model", "Share of all rows (60.0%)"]
    assert (upper.get_title(), upper.get_ylabel()) == ("Calibration", "Observed share")


@pytest.mark.parametrize("label", [LATE, LATE.astype(float), LATE.astype("int8")])
def test_calibration_counts_rows_by_bin(label: np.ndarray) -> None:
    curves = {"Model": PROBABILITY, "Baseline": np.full(10, 0.55)}
    _, lower = plots.draw_calibration(label, curves, "Calibration").axes

    heights = [[bar.get_height() for bar in bars] for bars in lower.containers]
    assert heights == [[4, 0, 0, 0, 0, 0, 0, 0, 6, 0], [0, 0, 0, 0, 0, 10, 0, 0, 0, 0]]


def test_one_label_alone_is_drawn() -> None:
    upper, _ = plots.draw_calibration(np.zeros(10), {"Model": PROBABILITY}, "Calibration").axes
    assert next(line for line in upper.lines if line.get_label() == "Model").get_ydata().tolist() == [0, 0]


def test_importance_shows_the_largest_first() -> None:
    importances = np.array([[0.1, 0.3], [0.0, 0.0], [0.5, 0.5]])
    (axes,) = plots.draw_importance(("items", "shop", "distance"), importances, "Importance", most=2).axes

    assert [text.get_text() for text in axes.get_yticklabels()] == ["items", "distance"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.draw_calibration(LATE, {"Model": PROBABILITY}, "Calibration"),
        lambda: plots.draw_importance(("items",), np.array([[0.1, 0.3]]), "Importance"),
        lambda: plots.draw_learning_curve({"brier": [(1, 0.5), (2, 0.4)]}, "Learning curve"),
    ],
)
def test_pyplot_holds_no_figure(draw: Callable[[], Any]) -> None:
    before = pyplot.get_fignums()
    figure = draw()
    assert pyplot.get_fignums() == before
    assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)
