"""A small table of flights' features, late where the aircraft's last leg left late, for the tests of models."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from gold.flight_features import COLUMNS
from lakehouse.ml.dataset import FeatureTable, LabelledRows, open_features
from models.late_arrival import TASK

KINDS = {
    "string": pa.string(),
    "int": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
SPANS = {"train": ("2013-10-18", "2013-10-31"), "validation": ("2013-11-01", "2013-11-07")}
FIRST = date(2013, 10, 18)


def some_flights(days: int = 28, a_day: int = 40, seed: int = 1) -> pa.Table:
    """Return flights from SPANS' first day, in columns of gold.flight_features; each day's last did not arrive."""
    chance = np.random.default_rng(seed)
    size = days * a_day
    names = {"carrier": ["AA", "UA", "B6"], "origin": ["EWR", "JFK", "LGA"], "dest": ["BOS", "ORD", "LAX"]}
    columns: dict[str, pa.Array] = {}
    for name, kind in COLUMNS.items():
        if kind == "int":
            columns[name] = pa.array(chance.integers(0, 100, size), mask=chance.random(size) < 0.1)
        elif kind == "double":
            columns[name] = pa.array(chance.normal(size=size), mask=chance.random(size) < 0.1)
        elif name in names:
            columns[name] = pa.array(chance.choice(names[name], size))
        elif kind == "string":
            columns[name] = pa.array([f"N{n}" for n in chance.integers(0, 30, size)])
    day = [FIRST + timedelta(days=n // a_day) for n in range(size)]
    delay = np.where(chance.random(size) < 0.3, chance.integers(20, 90, size), chance.integers(-10, 10, size))
    late = delay + chance.normal(0, 5, size) > 15
    columns |= {
        "flight_date": pa.array(day),
        "flight": pa.array(np.arange(size)),
        "sched_dep_utc": pa.array([*map(_noon, day)]),
        "cutoff_utc": pa.array([*map(_noon, day)]),
        "leg_dep_delay_min": pa.array(delay, mask=chance.random(size) < 0.05),
        "late": pa.array(late, mask=np.arange(size) % a_day == a_day - 1),
    }
    return pa.table({name: columns[name].cast(KINDS[kind]) for name, kind in COLUMNS.items()})


def _noon(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86_400_000_000 + 12 * 3_600_000_000


def features_of(lake: Path, table: pa.Table | None = None) -> FeatureTable:
    """Write the features, and open them at the written version."""
    path = lake / "gold" / "flight_features"
    path.mkdir(parents=True, exist_ok=True)
    write_deltalake(path, some_flights() if table is None else table, mode="overwrite", partition_by="flight_date")
    return open_features(TASK, lake, ())


def splits_of(features: FeatureTable, columns: tuple[str, ...]) -> tuple[LabelledRows, LabelledRows]:
    """Return the rows of the training and validation splits."""
    both = (LabelledRows(features, span, (*TASK.key, TASK.time_column, *columns)) for span in SPANS.values())
    train, choose = both
    return train, choose
