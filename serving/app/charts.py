"""The page's charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import altair as alt
import pandas as pd

from serving.app.drivers import Contribution

# Legible on white and on black.
MORE, LESS, CALM, PALE = "#d9762b", "#3d8bba", "#6f7d8c", "#9aa7b433"
PERCENT: Final = "%"
# Altair's methods return less precise types than its charts have.
Chart = Any
Rows = Sequence[dict[str, Any]]


def risk(probability: float, usual: float | None, usual_of: str) -> Chart:
    """A bar from 0 to 100%; above it what is usual, and beside that of whom it is."""
    axis = alt.Axis(format=PERCENT, title=None, grid=False, tickCount=5)
    x = alt.X("share:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)

    def layer(share: float) -> Chart:
        return alt.Chart(pd.DataFrame({"share": [share], "said": [f"{usual_of} {share:.0%}"]})).encode(x)

    layers = [
        layer(share).mark_bar(color=color, y=22, height=20, cornerRadius=3)
        for share, color in ((1, PALE), (probability, MORE))
    ]
    if usual is not None:
        align, dx = ("left", 9) if usual < 0.5 else ("right", -9)
        layers += [
            layer(usual).mark_point(shape="triangle-down", filled=True, size=80, opacity=1, color=CALM, y=3),
            layer(usual).mark_text(color=CALM, y=2, align=align, dx=dx).encode(text="said:N"),
        ]
    return alt.layer(*layers).properties(height=70)


def contributions(groups: Sequence[Contribution]) -> Chart:
    """A bar per group of features, in the order given, to the right where it makes the flight more likely to be late."""
    rows = pd.DataFrame({
        "group": [one.name for one in groups],
        "points": [one.effect * 100 for one in groups],
        "said": [points(one.effect) for one in groups],
    })  # fmt: skip
    # Room for the numbers beside the bars.
    most = max(1.0, rows["points"].abs().max()) * 1.45
    least = -most if rows["points"].min() < -most / 26 else -most / 5
    labels = alt.Axis(labelLimit=400, ticks=False, domain=False, labelPadding=8)
    base = alt.Chart(rows).encode(
        y=alt.Y("group:N", sort=None, title=None, axis=labels),
        x=alt.X("points:Q", title=None, axis=None, scale=alt.Scale(domain=[least, most])),
    )
    bars = base.mark_bar(cornerRadius=2, height=16).encode(
        color=alt.condition("datum.points > 0", alt.value(MORE), alt.value(LESS)),
        tooltip=[alt.Tooltip("group:N", title="Group"), alt.Tooltip("said:N", title="Percentage points")],
    )
    right = base.mark_text(align="left", dx=5, color=CALM).encode(text="said:N").transform_filter("datum.points >= 0")
    left = base.mark_text(align="right", dx=-5, color=CALM).encode(text="said:N").transform_filter("datum.points < 0")
    return alt.layer(bars, right, left).properties(height=alt.Step(26))


def points(effect: float) -> str:
    """A difference of probabilities in percentage points, signed."""
    rounded = round(effect * 100, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def late_share(days: Rows) -> Chart:
    """The share of late flights, a bar a day."""
    said = [_day_tooltip(), alt.Tooltip("late_rate:Q", title="Late", format=".0%")]
    bars = alt.Chart(_with_text_days(days)).mark_bar(color=MORE)
    return bars.encode(_day(), _share("late_rate"), tooltip=said).properties(height=130)


def departures(days: Rows) -> Chart:
    """Flights a day, those that were cancelled apart."""
    rows = _with_text_days(days).assign(flown=lambda row: row["flights"] - row["cancelled"])
    split = rows.melt(["day"], ["flown", "cancelled"], "what", "number")
    return (
        alt.Chart(split)
        .mark_bar()
        .encode(
            _day(),
            alt.Y("number:Q", title=None, axis=alt.Axis(tickCount=3)),
            _colors("what", {"flown": CALM, "cancelled": MORE}),
            alt.Order("what:N", sort="descending"),
            tooltip=[_day_tooltip(), alt.Tooltip("what:N", title="Flights"), alt.Tooltip("number:Q", title="Number")],
        )
        .properties(height=170)
    )


def outcome(days: Rows) -> Chart:
    """What was predicted of a day's flights on average, and the share of them that was late."""
    rows = _with_text_days(days).rename(columns={"mean_probability": "predicted", "label_rate": "were late"})
    split = rows.melt(["day"], ["predicted", "were late"], "what", "share")
    said = alt.Tooltip("share:Q", title="Share", format=".0%")
    return (
        alt.Chart(split)
        .mark_line(point=True)
        .encode(
            _day(),
            _share("share"),
            _colors("what", {"predicted": LESS, "were late": MORE}),
            tooltip=[_day_tooltip(), alt.Tooltip("what:N", title="Of the day's flights"), said],
        )
        .properties(height=220)
    )


def _with_text_days(days: Rows) -> pd.DataFrame:
    """The rows, with days as text: browsers show moments in their own time zone."""
    return pd.DataFrame([{**row, "day": str(row["day"])} for row in days])


def _day() -> alt.X:
    said = "utcFormat(toDate(datum.value), '%-d %b')"
    return alt.X("day:O", title=None, axis=alt.Axis(labelExpr=said, labelAngle=0, labelOverlap=True, ticks=False))


def _day_tooltip() -> alt.Tooltip:
    return alt.Tooltip("day:O", title="Day")


def _share(name: str) -> alt.Y:
    return alt.Y(f"{name}:Q", title=None, axis=alt.Axis(format=PERCENT, tickCount=4))


def _colors(name: str, colors: dict[str, str]) -> alt.Color:
    scale = alt.Scale(domain=[*colors], range=[*colors.values()])
    return alt.Color(f"{name}:N", scale=scale, legend=alt.Legend(title=None, orient="bottom", offset=4))
