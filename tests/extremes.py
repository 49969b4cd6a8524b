"""Tables with values at the edges of their types. No test needs Spark to write or to read them."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS, source
from lakehouse.definitions.tables import Table, incremental, table
from lakehouse.definitions.write_modes import Append, Replace
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import InputVersion, Record
from lakehouse.engine.base import Commit, Target
from lakehouse.engine.deltars.tables import DeltaRsTables
from lakehouse.landing.reader.column_types import to_arrow_type

FIRST, LAST = date(1, 1, 1), date(9999, 12, 31)
ODD_TEXT = "\x1b[2J\x00[red]\u202e\n:heart:"
TYPES = {
    "id": "bigint",
    "day": "date",
    "at": "timestamp",
    "number": "double",
    "amount": "decimal(38,18)",
    "whole": "decimal(38,0)",
    "content": "binary",
    "text": "string",
    "more": "map<string,map<string,array<double>>>",
}
COMMITTED_AT = datetime(2024, 1, 31, tzinfo=UTC)

landed_extremes = source("raw.extremes", landing="extremes", columns=TYPES, format="parquet")


@table(
    "silver.extremes",
    columns=TYPES,
    write=Append(),
    rules=(Rule("number_is_finite", "number < 1e300"),),
    extremes="raw.extremes",
)
def extremes(extremes: DataFrame) -> DataFrame:
    """One row per landed row."""
    return extremes.select(*TYPES, *ORIGIN_COLUMNS)


@table(
    "gold.days",
    columns={"day": "date", "number": "double"},
    write=Replace("day"),
    extremes=incremental("silver.extremes", date_column="day", lookback_days=1, affects_days=1),
)
def days(extremes: DataFrame) -> DataFrame:
    """One row per day."""
    return extremes.groupBy("day").sum("number").toDF("day", "number")


def make_rows() -> list[dict[str, Any]]:
    """Return the least and the greatest value of each type, and a row of nulls."""
    nines = "9" * 20 + "." + "9" * 18
    nested = {"a": {"b": [float("nan"), float("-inf"), None]}, ODD_TEXT: {}}
    first = {
        "day": FIRST,
        "at": datetime(1, 1, 1, tzinfo=UTC),
        "number": float("nan"),
        "amount": Decimal(f"-{nines}"),
        "whole": Decimal("-" + "9" * 38),
        "content": bytes(range(256)),
        "text": ODD_TEXT,
        "more": [(key, list(value.items())) for key, value in nested.items()],
    }
    last = {
        "day": LAST,
        "at": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "number": float("inf"),
        "amount": Decimal(nines),
        "whole": Decimal("9" * 38),
        "content": b"",
        "text": "x" * 100_000,
        "more": [],
    }
    rows = [first, last, {**last, "number": float("-inf")}, dict.fromkeys(first)]
    return [{"id": number, **row} for number, row in enumerate(rows)]


def make_file() -> bytes:
    """Return a Parquet file with the rows."""
    schema = pa.schema([(name, to_arrow_type(kind)) for name, kind in TYPES.items()])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(make_rows(), schema), buffer)
    return buffer.getvalue()


def write_tables(root: Path) -> None:
    """Write what Spark would write: a row in the quarantine, the others in silver, two days in gold."""
    catalog = Catalog(graph.load(["tests.extremes"]), root)
    bronze = table_log.open_log(catalog.get_path("raw.extremes"))
    assert bronze is not None
    assert bronze.last is not None
    assert bronze.last.record is not None
    run = bronze.last.record.run
    landed = bronze.open_dataset().to_table([*TYPES, *ORIGIN_COLUMNS]).sort_by("id")
    counts = {"written": 3, "unchanged": 0, "superseded": 0, "quarantined": 1}
    silver = _make_record(run, extremes, "raw.extremes", bronze.version, counts, quarantined_batch=1)
    origin = landed.select(list(ORIGIN_COLUMNS)).to_pylist()[3]
    original = json.dumps({"id": 3, "number": "NaN", "text": ODD_TEXT, "more": {ODD_TEXT: None}})
    reject = {"rules": [f"rule {ODD_TEXT}"], "original": original, **origin, "_source_file": f"extremes/{ODD_TEXT}"}
    reject |= {"batch": 1, "generation": 1}
    rejects = pa.Table.from_pylist([{**reject, "run": run, "quarantined_at": COMMITTED_AT}])
    path = catalog.get_quarantine_path("silver.extremes")
    _append(rejects, Target("the quarantine", path, ("batch",)), Commit("quarantine/silver.extremes", silver))
    target = Target("silver.extremes", catalog.get_path("silver.extremes"), ("day", "at", "number", "amount", "text"))
    _append(landed.slice(0, 3), target, Commit("silver.extremes", silver))
    gold = _make_record(run, days, "silver.extremes", 0, {"written": 2, "quarantined": 0})
    rows = pa.table({"day": pa.array([FIRST, LAST], pa.date32()), "number": [float("nan"), float("inf")]})
    _append(rows, Target("gold.days", catalog.get_path("gold.days"), ("day",)), Commit("gold.days", gold))


def _make_record(run: str, declared: Table, table: str, version: int, rows: dict[str, int], **more: Any) -> Record:
    fingerprint, at = compute_fingerprint(declared), COMMITTED_AT.isoformat()
    return Record(run, 1, 1, {table: InputVersion(version, 1)}, rows, "revision", fingerprint, at, **more)


def _append(rows: pa.Table, target: Target, commit: Commit) -> None:
    DeltaRsTables().append(rows, target, commit)
