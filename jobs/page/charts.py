"""Charts of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import altair as alt
import pandas as pd

from jobs.page.contributions import Contribution

# Legible on white and on black.
MORE, LESS, CALM, PALE = "#d9762b", "#3d8bba", "#6f7d8c", "#9aa7b433"
PERCENT: Final = "%"
# Altair's methods return less precise types than its charts have.
Chart = Any
Rows = Sequence[dict[str, Any]]


def draw_risk(probability: float, usual: float | None, usual_label: str) -> Chart:
    """Draw a bar from 0 to 100%, with the usual share and its label above it."""
    axis = alt.Axis(format=PERCENT, title=None, grid=False, tickCount=5)
    x = alt.X("share:Q", scale=alt.Scale(domain=[0, 1]), axis=axis)

    def layer(share: float) -> Chart:
        return alt.Chart(pd.DataFrame({"share": [share], "label": [f"{usual_label} {share:.0%}"]})).encode(x)

    layers = [
        layer(share).mark_bar(color=color, y=22, height=20, cornerRadius=3)
        for share, color in ((1, PALE), (probability, MORE))
    ]
    if usual is not None:
        align, dx = ("left", 9) if usual < 0.5 else ("right", -9)
        layers += [
            layer(usual).mark_point(shape="triangle-down", filled=True, size=80, opacity=1, color=CALM, y=3),
            layer(usual).mark_text(color=CALM, y=2, align=align, dx=dx).encode(text="label:N"),
        ]
    return alt.layer(*layers).properties(height=70)


def draw_contributions(groups: Sequence[Contribution]) -> Chart:
    """Draw a bar per group of features. A bar to the right means that the flight is more likely to be late."""
    rows = pd.DataFrame(
        {
            "group": [group.name for group in groups],
            "points": [group.effect * 100 for group in groups],
            "label": [format_points(group.effect) for group in groups],
        }
    )
    # The axis leaves space for the numbers beside the bars.
    upper = max(1.0, rows["points"].abs().max()) * 1.45
    lower = -upper if rows["points"].min() < -upper / 26 else -upper / 5
    labels = alt.Axis(labelLimit=400, ticks=False, domain=False, labelPadding=8)
    base = alt.Chart(rows).encode(
        y=alt.Y("group:N", sort=None, title=None, axis=labels),
        x=alt.X("points:Q", title=None, axis=None, scale=alt.Scale(domain=[lower, upper])),
    )
    bars = base.mark_bar(cornerRadius=2, height=16).encode(
        color=alt.condition("datum.points > 0", alt.value(MORE), alt.value(LESS)),
        tooltip=[alt.Tooltip("group:N", title="Group"), alt.Tooltip("label:N", title="Percentage points")],
    )
    positive = (
        base.mark_text(align="left", dx=5, color=CALM).encode(text="label:N").transform_filter("datum.points >= 0")
    )
    negative = (
        base.mark_text(align="right", dx=-5, color=CALM).encode(text="label:N").transform_filter("datum.points < 0")
    )
    return alt.layer(bars, positive, negative).properties(height=alt.Step(26))


def format_points(effect: float) -> str:
    """Return a difference of probabilities in percentage points, with its sign."""
    rounded = round(effect * 100, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def draw_late_share(days: Rows) -> Chart:
    """Draw the share of late flights, one bar per day."""
    tooltip = [_make_day_tooltip(), alt.Tooltip("late_rate:Q", title="Late", format=".0%")]
    bars = alt.Chart(_with_text_days(days)).mark_bar(color=MORE)
    return bars.encode(_encode_day(), _encode_share("late_rate"), tooltip=tooltip).properties(height=130)


def draw_departures(days: Rows) -> Chart:
    """Draw the flights per day, split into flown and cancelled."""
    rows = _with_text_days(days).assign(flown=lambda row: row["flights"] - row["cancelled"])
    split = rows.melt(["day"], ["flown", "cancelled"], "status", "number")
    return (
        alt.Chart(split)
        .mark_bar()
        .encode(
            _encode_day(),
            alt.Y("number:Q", title=None, axis=alt.Axis(tickCount=3)),
            _make_color_scale("status", {"flown": CALM, "cancelled": MORE}),
            alt.Order("status:N", sort="descending"),
            tooltip=[
                _make_day_tooltip(),
                alt.Tooltip("status:N", title="Flights"),
                alt.Tooltip("number:Q", title="Number"),
            ],
        )
        .properties(height=170)
    )


def draw_outcome(days: Rows) -> Chart:
    """Draw the average prediction and the actual share of late flights, by day."""
    rows = _with_text_days(days).rename(columns={"mean_probability": "predicted", "label_rate": "were late"})
    split = rows.melt(["day"], ["predicted", "were late"], "series", "share")
    share = alt.Tooltip("share:Q", title="Share", format=".0%")
    return (
        alt.Chart(split)
        .mark_line(point=True)
        .encode(
            _encode_day(),
            _encode_share("share"),
            _make_color_scale("series", {"predicted": LESS, "were late": MORE}),
            tooltip=[_make_day_tooltip(), alt.Tooltip("series:N", title="Of the day's flights"), share],
        )
        .properties(height=220)
    )


def _with_text_days(days: Rows) -> pd.DataFrame:
    """Return the rows with days as text, because browsers show timestamps in their own time zone."""
    return pd.DataFrame([{**row, "day": str(row["day"])} for row in days])


def _encode_day() -> alt.X:
    label = "utcFormat(toDate(datum.value), '%-d %b')"
    return alt.X("day:O", title=None, axis=alt.Axis(labelExpr=label, labelAngle=0, labelOverlap=True, ticks=False))


def _make_day_tooltip() -> alt.Tooltip:
    return alt.Tooltip("day:O", title="Day")


def _encode_share(name: str) -> alt.Y:
    return alt.Y(f"{name}:Q", title=None, axis=alt.Axis(format=PERCENT, tickCount=4))


def _make_color_scale(name: str, colors: dict[str, str]) -> alt.Color:
    scale = alt.Scale(domain=[*colors], range=[*colors.values()])
    return alt.Color(f"{name}:N", scale=scale, legend=alt.Legend(title=None, orient="bottom", offset=4))
