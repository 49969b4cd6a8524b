"""Two lakes compared table by table, each read by Spark and by delta-rs."""

from __future__ import annotations

import json
from typing import Any

from deltalake import DeltaTable

from lakehouse.definitions.sources import LANDING_COLUMNS
from lakehouse.writes.rules import QUARANTINE_COLUMNS
from tests.lakes import TestLake

# When a row came is no part of what it says, nor by which run.
TIMES = ("_ingested_at", "quarantined_at", "run")
Content = dict[str, list[str]]


def content(lake: TestLake, *, delivered: bool = True) -> Content:
    """Every row of every table and quarantine, as text in order, once both readers agree on them.

    Unless ``delivered``, without the places of rows in their files and the numbers of files and batches.
    """
    found: Content = {}
    for name in lake.lake.graph.declarations:
        columns = [c for c in lake.lake.written_columns(name) if delivered or c not in LANDING_COLUMNS]
        found[name] = _agreed(lake, lake.lake.path(name), columns)
        if lake.lake.quarantine_path(name).exists():
            kept = QUARANTINE_COLUMNS if delivered else ("rules", "original")
            found[f"the quarantine of {name}"] = _agreed(lake, lake.lake.quarantine_path(name), [*kept])
    return found


def _agreed(lake: TestLake, path: Any, columns: list[str]) -> list[str]:
    columns = [c for c in columns if c not in TIMES]
    by_spark = lake.spark.read.format("delta").load(str(path)).select(*columns).toArrow().to_pylist()
    by_delta_rs = DeltaTable(str(path)).to_pyarrow_table(columns=columns).to_pylist()
    told = _told(by_spark)
    assert told == _told(by_delta_rs), f"Spark and delta-rs read {path} otherwise"
    return told


def _told(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(_plain(row), default=str, sort_keys=True) for row in rows)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    if "original" not in row:
        return row
    original = {k: v for k, v in json.loads(row["original"]).items() if k not in LANDING_COLUMNS}
    return {**row, "original": original}


def assert_same(lake: TestLake, undisturbed: Content, *, delivered: bool = True) -> None:
    """The lake holds what the undisturbed one does."""
    found = content(lake, delivered=delivered)
    assert found.keys() == undisturbed.keys()
    for name, rows in undisturbed.items():
        assert found[name] == rows, name
