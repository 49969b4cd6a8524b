"""The page: will this flight be late? `lakehouse app` serves it."""

from __future__ import annotations

import re
import uuid
from datetime import date
from typing import Any, Final

import streamlit as st

from lakehouse import settings as settings_module
from lakehouse.deltalog.table_log import TableLog
from lakehouse.errors import LakehouseError, ModelError
from lakehouse.storage.location import Location
from models.late_arrival import TASK
from serving.app import charts, reading
from serving.app.client import Client, make_client
from serving.app.drivers import Contribution, group_features, rank_contributions, variations
from serving.app.reading import Flight

NUMBER: Final = re.compile(r"\s*([A-Za-z0-9]{2})\s*(\d{1,4})\s*")
# Streamlit leaves much room above, and lines as long as the screen is wide.
STYLE: Final = "<style>.stMainBlockContainer {padding-top: 2.5rem; padding-bottom: 2rem; max-width: 76rem}</style>"
FROM_LIST, BY_NUMBER = "Pick from a list", "Type its number"


def show() -> None:
    st.set_page_config("Will this flight be late?", layout="wide")
    st.html(STYLE)
    st.header("Will this flight be late?", anchor=False)
    st.write("The chance of arriving 15 minutes late or more, by what is known two hours before departure.")
    try:
        lake = settings_module.load().lake
        flight = _choose_flight(*_open_features(lake))
        if flight is None:
            return
        st.divider()
        left, right = st.columns(2, gap="large")
        with right:
            recent = _show_airport(lake, flight)
            lately = st.container()
        with left:
            version = _show_risk(flight, recent)
        if version is not None:
            with lately:
                _show_quality(lake, version)
    except LakehouseError as error:
        st.error(str(error))


def _open_features(lake: Location) -> tuple[TableLog, date, date]:
    """The flights, and the first and last day of which there are any.

    Raises:
        ModelError: there are none.
    """
    features = reading.open_table(lake, TASK.feature_table)
    days = reading.flight_days(features) if features else None
    if features is None or days is None:
        raise ModelError(f"There are no flights in {TASK.feature_table} yet: `lakehouse land`, then `lakehouse run`.")
    return features, *days


def _choose_flight(features: TableLog, first: date, last: date) -> Flight | None:
    """The flight that the reader picks or types; None, with a word why, where it is none."""
    how = st.radio("How to choose", (FROM_LIST, BY_NUMBER), horizontal=True, label_visibility="collapsed")
    columns = st.columns((1, 1, 2))
    day = columns[0].date_input("Date", last, min_value=first, max_value=last, format="YYYY-MM-DD")
    flights = reading.flights_on(features, day)
    if not flights:
        st.info(f"{TASK.feature_table} has no flights on {day}. It has days from {first} to {last}.")
        return None
    if how == FROM_LIST:
        origin = columns[1].selectbox("From", sorted({one.origin for one in flights}))
        return columns[2].selectbox("Flight", [one for one in flights if one.origin == origin])
    typed = NUMBER.fullmatch(columns[1].text_input("Carrier and number", placeholder=flights[0].number))
    if typed is None:
        st.info(f"Type a carrier's code and a number, such as {flights[0].number}.")
        return None
    number = f"{typed[1].upper()} {int(typed[2])}"
    found = [one for one in flights if one.number == number]
    if not found:
        st.info(f"{TASK.feature_table} has no flight {number} on {day}.")
        return None
    return columns[2].selectbox("Flight", found, format_func=lambda one: f"{one}, from {one.origin}")


def _show_risk(flight: Flight, recent: reading.Rows) -> int | None:
    """What the API says of the flight, and what drives it; the model's version, or None where the API says nothing."""
    try:
        api = make_client()
        info = api.model()
        # The same version of the model is to answer both requests.
        request_id = f"page-{uuid.uuid4().hex}"
        (said,) = api.predict(request_id, "keys", [flight.key])
        _show_probability(flight, said, recent)
        _show_contributions(flight, said, info, api, request_id)
    except LakehouseError as error:
        st.error(str(error))
        return None
    return int(said["model_version"])


def _show_probability(flight: Flight, prediction: dict[str, Any], recent: reading.Rows) -> None:
    probability, day = prediction["probability"], flight.values[TASK.time_column]
    st.subheader(f"{flight.number} from {flight.origin} to {flight.values['dest']}", anchor=False)
    st.write(f"{day:%A} {_format_day(day)}, scheduled to leave at {flight.departure}")
    st.metric("Chance of being 15 minutes late or more", _format_percent(probability))
    st.write(f"Of 100 flights like this one, {_format_of_hundred(probability)} would arrive 15 minutes late or more.")
    before = [row | {"arrived": row["flights"] - row["cancelled"]} for row in recent if row["day"] < day]
    usual = reading.mean(before, "late_rate", "arrived")
    st.altair_chart(
        charts.risk(probability, usual, f"{flight.origin} lately:"),
        width="stretch",
        alt=f"{_format_percent(probability)} on a scale to 100%",
    )
    notes = [f"Said by {TASK.name} version {prediction['model_version']}, the {prediction['alias']}."]
    if usual is not None:
        notes.insert(0, f"Lately: the {len(before)} days before.")
    if flight.is_late is not None:
        notes.append(f"What came of it: it was {'late' if flight.is_late else 'not late'}.")
    st.caption(" ".join(notes))


def _show_contributions(
    flight: Flight, prediction: dict[str, Any], info: dict[str, Any], api: Client, request_id: str
) -> None:
    """What the probability would be, were groups of features typical.

    Raises:
        ModelError: another version answers than before.
    """
    changed = ModelError("Another version of the model has come into service just now: load the page again.")
    serving = next((one for one in info["serving"] if one["version"] == prediction["model_version"]), None)
    if serving is None:
        raise changed
    # A request must hold what any version in service reads.
    row = {name: flight.values.get(name) for one in info["serving"] for name in one["input_columns"]}
    groups = group_features(serving["input_columns"])
    answers = api.predict(request_id, "features", variations(row, serving["typical"], groups))
    if any(one["model_version"] != prediction["model_version"] for one in answers):
        raise changed
    found = rank_contributions(groups, [one["probability"] for one in answers])
    st.subheader("What drives it", anchor=False)
    st.markdown(_describe_strongest(found[0]))
    st.altair_chart(charts.contributions(found), width="stretch", alt="Percentage points by group of features")
    st.caption(
        "Percentage points: the chance as predicted, less the chance with the group's features at typical values (the median, or "
        "the most frequent). Features that say the same thing share their effect, so the bars need not add up."
    )
    with st.expander("The values behind it"):
        st.table(_values(found, row, serving["typical"]), border="horizontal")
        st.caption("A dash is what was not known.")


def _describe_strongest(contribution: Contribution) -> str:
    by = round(abs(contribution.effect) * 100)
    if not by:
        return "Nothing much: no group of features moves the chance by a percentage point."
    way, unit = "raises" if contribution.effect > 0 else "lowers", "point" if by == 1 else "points"
    return f"Most of all: **{contribution.name.lower()}**, which {way} the chance by {by} percentage {unit}."


def _format_day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _format_percent(probability: float) -> str:
    """Never 0% or 100%, which nobody can know."""
    return "under 1%" if probability < 0.01 else "over 99%" if probability > 0.99 else f"{probability:.0%}"


def _format_of_hundred(probability: float) -> str:
    if 0.01 <= probability <= 0.99:
        return f"about {probability * 100:.0f}"
    return "hardly any" if probability < 0.5 else "nearly all"


def _values(found: list[Contribution], row: dict[str, Any], typical: dict[str, Any]) -> dict[str, list[str]]:
    names = [name for driver in found for name in driver.features]
    return {
        "Feature": names,
        "This flight": [_format_value(row[name]) for name in names],
        "Typical": [_format_value(typical[name]) for name in names],
    }


def _format_value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_airport(lake: Location, flight: Flight) -> reading.Rows:
    """The last days of the flight's airport."""
    st.subheader(f"{flight.origin} in the days up to the flight", anchor=False)
    daily = reading.open_table(lake, reading.AIRPORTS)
    days = reading.airport_days(daily, flight.origin, flight.values[TASK.time_column]) if daily else []
    if not days:
        st.info(f"{reading.AIRPORTS} has nothing of these days: `lakehouse run` builds it.")
        return []
    st.caption("Late flights, of those that arrived")
    st.altair_chart(charts.late_share(days), width="stretch", alt="Share of late flights by day")
    st.caption("Flights")
    st.altair_chart(charts.departures(days), width="stretch", alt="Flights flown and cancelled by day")
    return days


def _show_quality(lake: Location, version: int) -> None:
    """How well the model's version has done on the last days that it scored."""
    st.subheader("How well the model has done", anchor=False)
    quality = reading.open_table(lake, TASK.quality_table)
    days = reading.quality_days(quality, version) if quality else []
    if not days:
        st.info(
            f"{TASK.quality_table} knows of no flight that version {version} scored and that has arrived since: `lakehouse score` "
            "scores days (`--from`, `--to`)."
        )
        return
    brier, auc, predicted, late = (
        reading.mean(days, name, "labelled") for name in ("brier", "roc_auc", "mean_probability", "label_rate")
    )
    said = (
        f"From {_format_day(days[0]['day'])} to {_format_day(days[-1]['day'])} (days scored: {len(days)}) version {version} gave "
        f"{predicted:.0%} on average, and {late:.0%} were late"
    )
    if brier is not None and auc is not None:
        said += f"; Brier score {brier:.3f} (0 is perfect), AUC {auc:.2f} (0.5 is guessing)"
    st.write(f"{said}.")
    st.altair_chart(charts.outcome(days), width="stretch", alt="Predicted and actual share of late flights by day")


show()
