"""A lake in a test's folder: land files, run tables, read tables without Spark."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lakehouse.catalog import Catalog
from lakehouse.definitions import graph
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source, source
from lakehouse.definitions.tables import Declaration, Table, table
from lakehouse.definitions.write_modes import History, Merge, WriteMode
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import Record, Run
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.landing.manifest import Manifest
from lakehouse.plan.planner import plan_steps
from lakehouse.plan.steps import RunRequest, Step
from lakehouse.runs.report import RunReport, TableResult
from lakehouse.runs.scheduler import run_tables
from lakehouse.spark import parse, unparsed
from lakehouse.storage import location
from lakehouse.writes import rules

PAYMENTS = pa.schema(
    [("payment_id", pa.int64()), ("order_id", pa.int64()), ("paid_on", pa.date32()), ("amount", pa.float64())]
)
ORDERS_HEADER = "order_id,customer_id,order_date,updated_at,status,amount"


def orders_csv(*lines: str) -> str:
    """Return a file of orders. A line has order, customer, date, updated at, status, amount."""
    return "\n".join([ORDERS_HEADER, *lines]) + "\n"


def json_lines(*records: Mapping[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def customer(number: int, name: str, city: str, as_of: str) -> dict[str, Any]:
    return {"customer_id": number, "name": name, "city": city, "as_of": as_of}


def parquet(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    records = [dict(zip(schema.names, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(records, schema), buffer)
    return buffer.getvalue()


def payments_file(*rows: tuple[int, int, str, float]) -> bytes:
    """Return a file of payments. A row has payment, order, day, amount."""
    return parquet([(p, o, date.fromisoformat(day), amount) for p, o, day, amount in rows], PAYMENTS)


def snapshot_date() -> Column:
    """Return the date at the end of a snapshot's file name, or null without a date."""
    return F.regexp_extract("_source_file", r"_(\d{4}-\d{2}-\d{2})\.[a-z]+$", 1).try_cast("date")


@dataclass(frozen=True)
class RunResults:
    """Report of a run, with its results by table."""

    report: RunReport

    def __getitem__(self, name: str) -> TableResult:
        return next(result for result in self.report.results if result.table == name)

    @property
    def statuses(self) -> dict[str, str]:
        return {result.table: result.status for result in self.report.results}

    @property
    def errors(self) -> dict[str, str]:
        return {result.table: result.error for result in self.report.results if result.error}

    def counts(self, name: str) -> dict[str, int]:
        outcome = self[name].outcome
        assert outcome is not None, f"{name} wrote nothing: {self[name]}"
        return dict(outcome.rows)


@dataclass(frozen=True)
class TestLake:
    """Lake with the tables of a graph. `with_tables` returns the same folder with other tables."""

    __test__ = False

    spark: SparkSession
    lake: Catalog

    @property
    def root(self) -> Path:
        return self.lake.root

    @property
    def engine(self) -> SparkEngine:
        return SparkEngine.wrap_session(self.spark)

    def with_tables(self, *declared: Declaration) -> TestLake:
        return replace(self, lake=Catalog(graph.build(declared), self.root))

    def folder(self, source: str) -> Path:
        declared = self.lake.graph.declarations[source]
        assert isinstance(declared, Source)
        return self.root / "landing" / declared.landing

    def land(self, source: str, name: str, content: str | bytes) -> Path:
        """Land a complete file, compressed if its name ends with .gz."""
        file = self.folder(source) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        is_compressed = name.endswith(".gz") and isinstance(content, str)
        location.put_if_changed(file, gzip.compress(data, mtime=0) if is_compressed else data)
        return file

    def plan(self, *selectors: str, request: RunRequest | None = None) -> dict[str, Step]:
        names = self.lake.graph.select(selectors)
        return {step.table: step for step in plan_steps(self.lake, names, request or RunRequest())}

    def attempt(
        self, *selectors: str, request: RunRequest | None = None, run: str = "run", parallel: int = 2
    ) -> RunResults:
        """Run tables, and return the results also of a failed run."""
        names, attempt = self.lake.graph.select(selectors), Run(run, "revision")
        return RunResults(run_tables(self.engine, self.lake, names, request or RunRequest(), attempt, parallel))

    def run(self, *selectors: str, full_refresh: bool = False, **more: Any) -> RunResults:
        """Run tables, and check that the run does not fail."""
        if full_refresh:
            more["request"] = RunRequest(frozenset(self.lake.graph.select(selectors)))
        results = self.attempt(*selectors, **more)
        assert not results.report.has_failed, results.errors
        return results

    # --- reading without Spark --------------------------------------------------------------------------------------

    def version(self, name: str) -> int | None:
        log = table_log.open_log(self.lake.get_path(name))
        return log.version if log else None

    def open_log(self, name: str) -> table_log.TableLog:
        log = table_log.open_log(self.lake.get_path(name))
        assert log is not None, name
        return log

    def versions(self) -> dict[str, int | None]:
        return {name: self.version(name) for name in self.lake.graph.declarations}

    def record(self, name: str) -> Record:
        record = table_log.read_last_record(self.lake.get_path(name))
        assert record is not None
        return record

    def rows(self, name: str, *columns: str) -> list[tuple[Any, ...]]:
        """Read a table's rows in order: the named columns, or else the declared columns."""
        return read_rows(self.lake.get_path(name), columns or self.columns(name))

    def rows_changed(self, name: str, column: str, version: int) -> set[Any]:
        """Return the values of a column in the rows that a version changed."""
        after = DeltaTable(str(self.lake.get_path(name)), version=version).to_pyarrow_table().to_pylist()
        before = DeltaTable(str(self.lake.get_path(name)), version=version - 1).to_pyarrow_table().to_pylist()
        return {row[column] for row in after if row not in before} | {row[column] for row in before if row not in after}

    def columns(self, name: str) -> tuple[str, ...]:
        declared = self.lake.graph.declarations[name]
        added = ("valid_from", "valid_to", "is_current")
        history = isinstance(declared, Table) and isinstance(declared.write, History)
        return (*declared.columns, *(added if history else ()))

    def content(self) -> dict[str, list[tuple[Any, ...]]]:
        """Read the rows of every existing table but bronze, where the rows have times of ingestion."""
        tables = (n for n, d in self.lake.graph.declarations.items() if isinstance(d, Table))
        return {name: self.rows(name) for name in tables if self.version(name) is not None}

    def quarantine(self, name: str, *columns: str) -> list[tuple[Any, ...]]:
        path = self.lake.get_quarantine_path(name)
        return read_rows(path, columns or tuple(rules.QUARANTINE_COLUMNS)) if path.exists() else []

    def originals(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(text) for (text,) in self.quarantine(name, "original")]

    def history(self, source: str) -> list[Manifest]:
        declared = self.lake.graph.declarations[source]
        assert isinstance(declared, Source)
        return self.lake.get_landing_zone(declared).read_history()

    def rejected(self, source: str) -> dict[str, str]:
        """Return the reason of each rejected file, by its name below the source's folder."""
        folder = self.folder(source).relative_to(self.root / "landing").as_posix()
        files = (file for manifest in self.history(source) for file in manifest.rejected_files)
        return {file.path.removeprefix(f"{folder}/"): file.reason for file in files}


def read_rows(path: Path, columns: Iterable[str]) -> list[tuple[Any, ...]]:
    table = DeltaTable(str(path)).to_pyarrow_table(columns=list(columns))
    return sorted(((tuple(row.values())) for row in table.to_pylist()), key=lambda row: [_sortable(v) for v in row])


def _sortable(value: Any) -> tuple[bool, str]:
    return value is not None, f"{value:020.6f}" if isinstance(value, int | float) else str(value)


def set_age(file: Path, seconds: float) -> None:
    """Set a file's time back, as if it had landed earlier."""
    stat = file.stat()
    os.utime(file, (stat.st_atime - seconds, stat.st_mtime - seconds))


# --- the smallest lake: items ---------------------------------------------------------------------------------------

ITEM_TYPES = {"id": "bigint", "at": "int", "value": "int"}
landed_items = source("raw.items", landing="items", columns=tuple(ITEM_TYPES))


def items_csv(*lines: str) -> str:
    """Return a file of items. A line has id, at, value."""
    return "\n".join(["id,at,value", *lines]) + "\n"


def parse_items(items: DataFrame) -> DataFrame:
    return items.select(
        *[parse(c, kind).alias(c) for c, kind in ITEM_TYPES.items()], unparsed(ITEM_TYPES), *ORIGIN_COLUMNS
    )


def items_table(
    write: WriteMode | None = None, function: Callable[[DataFrame], DataFrame] = parse_items, **more: Any
) -> Table:
    """Declare a table of items, with the landed items as its incremental input."""
    write = write or Merge(newest_by=("at",))
    options = {"columns": ITEM_TYPES, "key": ("id",), "items": "raw.items", **more}
    return table("clean.items", write=write, **options)(function)
