"""Queries of the lake for the page, without Spark. Results are cached per version of a table, which never changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from math import isnan
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import streamlit as st

from lakehouse.deltalog.table_log import TableLog, open_log
from lakehouse.errors import StorageError, get_first_line
from lakehouse.storage import s3
from lakehouse.storage.location import Location
from models.late_arrival import TASK

AIRPORTS = "gold.airport_daily"
AIRPORT_DAYS = 14
QUALITY_DAYS = 30
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Flight:
    """Row of the feature table.

    Attributes:
        values: All columns, with None for missing values.
    """

    values: dict[str, Any]
    is_late: bool | None

    @property
    def key(self) -> dict[str, Any]:
        """The flight's key for the API."""
        values = {name: self.values[name] for name in (*TASK.key, TASK.time_column)}
        return {name: value.isoformat() if isinstance(value, date) else value for name, value in values.items()}

    @property
    def number(self) -> str:
        return f"{self.values['carrier']} {self.values['flight']}"

    @property
    def origin(self) -> str:
        return str(self.values["origin"])

    @property
    def departure(self) -> str:
        """The scheduled time of departure, in New York's time."""
        hours, minutes = divmod(self.values["sched_minute"] or 0, 60)
        return f"{hours:02d}:{minutes:02d}"

    def __str__(self) -> str:
        return f"{self.departure}  {self.number} to {self.values['dest']}"


def open_table(lake: Location, name: str) -> TableLog | None:
    """Open the newest version of a table; return None if the table does not exist.

    Raises:
        LedgerError, StorageError: The table cannot be read.
    """
    return open_log(lake.joinpath(*name.split(".")))


def _get_version(log: TableLog) -> str:
    """Return a cache key that differs between a table and a rebuilt one in the same place."""
    return f"{log.delta_table.metadata().id} {log.version}"


_cached = st.cache_data(hash_funcs={TableLog: _get_version}, max_entries=50, show_spinner=False)


@_cached
def read_day_range(features: TableLog) -> tuple[date, date] | None:
    """Return the first and the last day with flights, or None for an empty table."""
    bounds = pc.min_max(_read(features, [TASK.time_column])[TASK.time_column]).as_py()
    return (bounds["min"], bounds["max"]) if bounds["min"] else None


@_cached
def read_flights(features: TableLog, day: date) -> list[Flight]:
    """Return the day's flights, ordered by scheduled departure."""
    rows = _read(features, None, ds.field(TASK.time_column) == day).to_pylist()
    flights = [Flight(_replace_nan(row), row[TASK.label_column]) for row in rows]
    return sorted(flights, key=lambda flight: (flight.values["sched_dep_utc"], flight.number))


@_cached
def read_airport_days(daily: TableLog, origin: str, until: date) -> Rows:
    """Return the airport's last AIRPORT_DAYS days up to ``until``.

    Returns:
        Rows with day, flights, cancelled, and late_rate (a share, or None).
    """
    day, first = ds.field("flight_date"), until - timedelta(AIRPORT_DAYS - 1)
    selection = (ds.field("origin") == origin) & (day >= first) & (day <= until)
    rows = _read(daily, ["flight_date", "flights", "cancelled", "late_rate"], selection).to_pylist()
    return sorted(({"day": row.pop("flight_date"), **row} for row in rows), key=lambda row: row["day"])


@_cached
def read_quality_days(quality: TableLog, version: int) -> Rows:
    """Return the last QUALITY_DAYS days with labels that the model's version scored.

    Returns:
        Rows with day, labelled (number of rows), label_rate, mean_probability, brier, and roc_auc (None if all labels
        are the same).
    """
    is_version = (ds.field("model_name") == TASK.name) & (ds.field("model_version") == version)
    measures = ["labelled", "label_rate", "mean_probability", "brier", "roc_auc"]
    rows = _read(quality, [TASK.time_column, *measures], is_version & (ds.field("labelled") > 0)).to_pylist()
    days = sorted(({"day": row.pop(TASK.time_column), **row} for row in rows), key=lambda row: row["day"])
    return days[-QUALITY_DAYS:]


def compute_weighted_mean(rows: Iterable[dict[str, Any]], name: str, weight: str) -> float | None:
    """Return the weighted mean of a column over the rows with a value, or None without such rows."""
    pairs = [(row[name], row[weight]) for row in rows if row[name] is not None and row[weight]]
    return sum(value * share for value, share in pairs) / sum(share for _, share in pairs) if pairs else None


def _replace_nan(row: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN by None, because JSON has no NaN."""
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in row.items()}


def _read(log: TableLog, columns: list[str] | None, selection: Any = None) -> pa.Table:
    try:
        return log.open_dataset().to_table(columns=columns, filter=selection)
    except Exception as error:  # raised by pyarrow or delta-rs
        raise StorageError(f"{log.path} cannot be read: {s3.explain_error(error) or get_first_line(error)}") from error
