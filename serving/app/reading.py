"""What the page reads from the lake, without Spark. What was read of a version of a table is kept, and is right for ever."""

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
    """A row of the features; ``values`` has all of its columns, with None for what is missing."""

    values: dict[str, Any]
    is_late: bool | None

    @property
    def key(self) -> dict[str, Any]:
        """What the API finds it by."""
        named = {name: self.values[name] for name in (*TASK.key, TASK.time_column)}
        return {name: one.isoformat() if isinstance(one, date) else one for name, one in named.items()}

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
    """The table as it is now; None where there is none.

    Raises:
        LedgerError, StorageError: it cannot be read.
    """
    return open_log(lake.joinpath(*name.split(".")))


def _version(log: TableLog) -> str:
    """It tells a version from that of a table that was made anew in its place, too."""
    return f"{log.delta_table.metadata().id} {log.version}"


_cached = st.cache_data(hash_funcs={TableLog: _version}, max_entries=50, show_spinner=False)


@_cached
def flight_days(features: TableLog) -> tuple[date, date] | None:
    """The first and the last day of which there are flights; None where there are none at all."""
    found = pc.min_max(_read(features, [TASK.time_column])[TASK.time_column]).as_py()
    return (found["min"], found["max"]) if found["min"] else None


@_cached
def flights_on(features: TableLog, day: date) -> list[Flight]:
    """The day's flights, in the order of their scheduled departure."""
    rows = _read(features, None, ds.field(TASK.time_column) == day).to_pylist()
    flights = [Flight(_without_nan(row), row[TASK.label_column]) for row in rows]
    return sorted(flights, key=lambda one: (one.values["sched_dep_utc"], one.number))


@_cached
def airport_days(daily: TableLog, origin: str, until: date) -> Rows:
    """The airport's last AIRPORT_DAYS days up to ``until``: day, flights, cancelled, late_rate (a share, or None)."""
    day, first = ds.field("flight_date"), until - timedelta(AIRPORT_DAYS - 1)
    wanted = (ds.field("origin") == origin) & (day >= first) & (day <= until)
    rows = _read(daily, ["flight_date", "flights", "cancelled", "late_rate"], wanted).to_pylist()
    return sorted(({"day": row.pop("flight_date"), **row} for row in rows), key=lambda row: row["day"])


@_cached
def quality_days(quality: TableLog, version: int) -> Rows:
    """The last QUALITY_DAYS days that the model's version scored and whose labels are known: day, labelled (rows), label_rate,
    mean_probability, brier, roc_auc (None where all labels were the same)."""
    wanted = (ds.field("model_name") == TASK.name) & (ds.field("model_version") == version) & (ds.field("labelled") > 0)
    named = ["labelled", "label_rate", "mean_probability", "brier", "roc_auc"]
    rows = _read(quality, [TASK.time_column, *named], wanted).to_pylist()
    return sorted(({"day": row.pop(TASK.time_column), **row} for row in rows), key=lambda row: row["day"])[
        -QUALITY_DAYS:
    ]


def mean(rows: Iterable[dict[str, Any]], name: str, weight: str) -> float | None:
    """The mean of a column over the rows that have it, each by its weight; None where there are none."""
    known = [(row[name], row[weight]) for row in rows if row[name] is not None and row[weight]]
    return sum(value * of for value, of in known) / sum(of for _, of in known) if known else None


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """For JSON has no NaN."""
    return {name: None if isinstance(value, float) and isnan(value) else value for name, value in row.items()}


def _read(log: TableLog, columns: list[str] | None, wanted: Any = None) -> pa.Table:
    try:
        return log.delta_table.to_pyarrow_dataset().to_table(columns=columns, filter=wanted)
    except Exception as error:  # of pyarrow or delta-rs
        raise StorageError(f"{log.path} cannot be read: {s3.explain_error(error) or get_first_line(error)}") from error
