"""Two lakes compared table by table, each read by Spark and by delta-rs."""

from __future__ import annotations

import json
from typing import Any

from deltalake import DeltaTable

from lakehouse.definitions.sources import LANDING_COLUMNS
from lakehouse.writes.rules import QUARANTINE_COLUMNS
from tests.lakes import TestLake

# The time and the run of a row are not part of its content.
TIMES = ("_ingested_at", "quarantined_at", "run")
Content = dict[str, list[str]]


def content(lake: TestLake, *, delivered: bool = True) -> Content:
    """Return every row of every table and quarantine, as sorted text, and check that both readers agree.

    Args:
        delivered: include the positions of rows in their files, and the numbers of files and batches.
    """
    contents: Content = {}
    for name in lake.lake.graph.declarations:
        columns = [c for c in lake.lake.get_written_columns(name) if delivered or c not in LANDING_COLUMNS]
        contents[name] = _read_twice(lake, lake.lake.get_path(name), columns)
        if lake.lake.get_quarantine_path(name).exists():
            names = QUARANTINE_COLUMNS if delivered else ("rules", "original")
            contents[f"the quarantine of {name}"] = _read_twice(lake, lake.lake.get_quarantine_path(name), [*names])
    return contents


def _read_twice(lake: TestLake, path: Any, columns: list[str]) -> list[str]:
    columns = [c for c in columns if c not in TIMES]
    by_spark = lake.spark.read.format("delta").load(str(path)).select(*columns).toArrow().to_pylist()
    by_delta_rs = DeltaTable(str(path)).to_pyarrow_table(columns=columns).to_pylist()
    rows = _as_text(by_spark)
    assert rows == _as_text(by_delta_rs), f"Spark and delta-rs read {path} differently"
    return rows


def _as_text(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(_plain(row), default=str, sort_keys=True) for row in rows)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    if "original" not in row:
        return row
    original = {k: v for k, v in json.loads(row["original"]).items() if k not in LANDING_COLUMNS}
    return {**row, "original": original}


def assert_same(lake: TestLake, undisturbed: Content, *, delivered: bool = True) -> None:
    """Check that the lake has the same content as the undisturbed one."""
    contents = content(lake, delivered=delivered)
    assert contents.keys() == undisturbed.keys()
    for name, rows in undisturbed.items():
        assert contents[name] == rows, name
