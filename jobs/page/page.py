"""Page that shows one flight's chance of being late. `lakehouse app` serves it."""

from __future__ import annotations

import re
import uuid
from datetime import date
from typing import Any, Final

import streamlit as st

from jobs.page import charts, queries
from jobs.page.contributions import Contribution, group_features, make_variations, rank_contributions
from jobs.page.queries import Flight
from lakehouse import settings as settings_module
from lakehouse.deltalog.table_log import TableLog
from lakehouse.errors import LakehouseError, ModelError
from lakehouse.serving.client import Client, make_client
from lakehouse.storage.location import Location
from models.late_arrival import TASK

NUMBER: Final = re.compile(r"\s*([A-Za-z0-9]{2})\s*(\d{1,4})\s*")
# Streamlit leaves much space at the top and makes lines as long as the screen is wide.
STYLE: Final = "<style>.stMainBlockContainer {padding-top: 2.5rem; padding-bottom: 2rem; max-width: 76rem}</style>"
FROM_LIST, BY_NUMBER = "Pick from a list", "Type its number"


def show() -> None:
    st.set_page_config("Will this flight be late?", layout="wide")
    st.html(STYLE)
    st.header("Will this flight be late?", anchor=False)
    st.write("The chance of arriving 15 minutes late or more, from data known two hours before departure.")
    try:
        lake = settings_module.load().lake
        flight = _choose_flight(*_open_features(lake))
        if flight is None:
            return
        st.divider()
        prediction_side, airport_side = st.columns(2, gap="large")
        with airport_side:
            recent = _show_airport(lake, flight)
            quality = st.container()
        with prediction_side:
            version = _show_risk(flight, recent)
        if version is not None:
            with quality:
                _show_quality(lake, version)
    except LakehouseError as error:
        st.error(str(error))


def _open_features(lake: Location) -> tuple[TableLog, date, date]:
    """Return the table of flights with its first and last day.

    Raises:
        ModelError: The table is missing or empty.
    """
    features = queries.open_table(lake, TASK.feature_table)
    days = queries.read_day_range(features) if features else None
    if features is None or days is None:
        raise ModelError(f"{TASK.feature_table}: there are no flights yet. Run `lakehouse land`, then `lakehouse run`.")
    return features, *days


def _choose_flight(features: TableLog, first: date, last: date) -> Flight | None:
    """Return the flight that the reader picks or types. Otherwise return None and show the reason."""
    choice = st.radio("How to choose", (FROM_LIST, BY_NUMBER), horizontal=True, label_visibility="collapsed")
    columns = st.columns((1, 1, 2))
    day = columns[0].date_input("Date", last, min_value=first, max_value=last, format="YYYY-MM-DD")
    flights = queries.read_flights(features, day)
    if not flights:
        st.info(f"{TASK.feature_table} has no flights on {day}. It has days from {first} to {last}.")
        return None
    if choice == FROM_LIST:
        origin = columns[1].selectbox("From", sorted({flight.origin for flight in flights}))
        return columns[2].selectbox("Flight", [flight for flight in flights if flight.origin == origin])
    entry = NUMBER.fullmatch(columns[1].text_input("Carrier and number", placeholder=flights[0].number))
    if entry is None:
        st.info(f"Type a carrier's code and a number, such as {flights[0].number}.")
        return None
    number = f"{entry[1].upper()} {int(entry[2])}"
    matches = [flight for flight in flights if flight.number == number]
    if not matches:
        st.info(f"{TASK.feature_table} has no flight {number} on {day}.")
        return None
    return columns[2].selectbox("Flight", matches, format_func=lambda flight: f"{flight}, from {flight.origin}")


def _show_risk(flight: Flight, recent: queries.Rows) -> int | None:
    """Show the API's prediction for the flight and the features that contribute to it.

    Returns:
        The model's version, or None if the API gave no prediction.
    """
    try:
        api = make_client()
        info = api.get_model()
        # Both requests must be answered by the same version of the model: it is chosen by the id.
        request_id = f"page-{uuid.uuid4().hex}"
        (prediction,) = api.predict(request_id, "keys", [flight.key])
        _show_probability(flight, prediction, recent)
        _show_contributions(flight, prediction, info, api, request_id)
    except LakehouseError as error:
        st.error(str(error))
        return None
    return int(prediction["model_version"])


def _show_probability(flight: Flight, prediction: dict[str, Any], recent: queries.Rows) -> None:
    probability, day = prediction["probability"], flight.values[TASK.time_column]
    st.subheader(f"{flight.number} from {flight.origin} to {flight.values['dest']}", anchor=False)
    st.write(f"{day:%A} {_format_day(day)}, scheduled to leave at {flight.departure}")
    st.metric("Chance of being 15 minutes late or more", _format_percent(probability))
    st.write(f"Of 100 flights like this one, {_format_of_hundred(probability)} would arrive 15 minutes late or more.")
    before = [row | {"arrived": row["flights"] - row["cancelled"]} for row in recent if row["day"] < day]
    usual = queries.compute_weighted_mean(before, "late_rate", "arrived")
    st.altair_chart(
        charts.draw_risk(probability, usual, f"{flight.origin} lately:"),
        width="stretch",
        alt=f"{_format_percent(probability)} on a scale to 100%",
    )
    notes = [f"Predicted by {TASK.name} version {prediction['model_version']}, the {prediction['alias']}."]
    if usual is not None:
        notes.insert(0, f"Lately: the {len(before)} days before.")
    if flight.is_late is not None:
        notes.append(f"Outcome: the flight was {'late' if flight.is_late else 'not late'}.")
    st.caption(" ".join(notes))


def _show_contributions(
    flight: Flight, prediction: dict[str, Any], info: dict[str, Any], api: Client, request_id: str
) -> None:
    """Show the change of the probability if each group of features had typical values.

    Raises:
        ModelError: The second answer came from another version of the model.
    """
    changed = ModelError("The prediction API: the model in service changed during the request. Load the page again.")
    serving = next((model for model in info["serving"] if model["version"] == prediction["model_version"]), None)
    if serving is None:
        raise changed
    # A request must contain the input columns of every version in service.
    row = {name: flight.values.get(name) for model in info["serving"] for name in model["input_columns"]}
    groups = group_features(serving["input_columns"])
    answers = api.predict(request_id, "features", make_variations(row, serving["typical"], groups))
    if any(answer["model_version"] != prediction["model_version"] for answer in answers):
        raise changed
    contributions = rank_contributions(groups, [answer["probability"] for answer in answers])
    st.subheader("Contributions to the prediction", anchor=False)
    st.markdown(_describe_strongest(contributions[0]))
    st.altair_chart(
        charts.draw_contributions(contributions), width="stretch", alt="Percentage points by group of features"
    )
    st.caption(
        "Percentage points: the predicted chance minus the chance with the group's features at typical values "
        "(the median or the most frequent value). Correlated features share their effect, so the bars may not add up."
    )
    with st.expander("The values behind it"):
        st.table(_read_values(contributions, row, serving["typical"]), border="horizontal")
        st.caption("A dash marks a value that was not known.")


def _describe_strongest(contribution: Contribution) -> str:
    points = round(abs(contribution.effect) * 100)
    if not points:
        return "Nothing much: no group of features moves the chance by a percentage point."
    verb, unit = "raises" if contribution.effect > 0 else "lowers", "point" if points == 1 else "points"
    return f"Most of all: **{contribution.name.lower()}**, which {verb} the chance by {points} percentage {unit}."


def _format_day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _format_percent(probability: float) -> str:
    """Return the probability in percent. Never 0% or 100%, because no prediction is certain."""
    return "under 1%" if probability < 0.01 else "over 99%" if probability > 0.99 else f"{probability:.0%}"


def _format_of_hundred(probability: float) -> str:
    if 0.01 <= probability <= 0.99:
        return f"about {probability * 100:.0f}"
    return "hardly any" if probability < 0.5 else "nearly all"


def _read_values(
    contributions: list[Contribution], row: dict[str, Any], typical: dict[str, Any]
) -> dict[str, list[str]]:
    names = [name for contribution in contributions for name in contribution.features]
    return {
        "Feature": names,
        "This flight": [_format_value(row[name]) for name in names],
        "Typical": [_format_value(typical[name]) for name in names],
    }


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_airport(lake: Location, flight: Flight) -> queries.Rows:
    """Show and return the last days at the flight's airport of departure."""
    st.subheader(f"{flight.origin} in the days up to the flight", anchor=False)
    daily = queries.open_table(lake, queries.AIRPORTS)
    days = queries.read_airport_days(daily, flight.origin, flight.values[TASK.time_column]) if daily else []
    if not days:
        st.info(f"{queries.AIRPORTS} has no rows for these days: `lakehouse run` builds it.")
        return []
    st.caption("Late flights, of those that arrived")
    st.altair_chart(charts.draw_late_share(days), width="stretch", alt="Share of late flights by day")
    st.caption("Flights")
    st.altair_chart(charts.draw_departures(days), width="stretch", alt="Flights flown and cancelled by day")
    return days


def _show_quality(lake: Location, version: int) -> None:
    """Show the quality of the model's version on the last days that it scored."""
    st.subheader("Quality of the model", anchor=False)
    quality = queries.open_table(lake, TASK.quality_table)
    days = queries.read_quality_days(quality, version) if quality else []
    if not days:
        st.info(
            f"{TASK.quality_table} has no arrived flight that version {version} scored: "
            "`lakehouse score` scores days (`--from`, `--to`)."
        )
        return
    brier, auc, predicted, late = (
        queries.compute_weighted_mean(days, name, "labelled")
        for name in ("brier", "roc_auc", "mean_probability", "label_rate")
    )
    summary = (
        f"From {_format_day(days[0]['day'])} to {_format_day(days[-1]['day'])} (days scored: {len(days)}) "
        f"version {version} gave {predicted:.0%} on average, and {late:.0%} were late"
    )
    if brier is not None and auc is not None:
        summary += f"; Brier score {brier:.3f} (0 is perfect), AUC {auc:.2f} (0.5 is guessing)"
    st.write(f"{summary}.")
    st.altair_chart(charts.draw_outcome(days), width="stretch", alt="Predicted and actual share of late flights by day")


show()
