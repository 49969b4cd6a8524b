"""A lake in a test's folder: land files, run tables on it, read them back without Spark."""

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

from lakehouse.catalog import Lake
from lakehouse.definitions import graph
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source, source
from lakehouse.definitions.tables import Declaration, Table, table
from lakehouse.definitions.write_modes import History, Merge, WriteMode
from lakehouse.deltalog import table_log
from lakehouse.deltalog.commit_record import Record, Run
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.landing.manifest import Manifest
from lakehouse.plan.planner import plan_steps
from lakehouse.plan.steps import Request, Step
from lakehouse.runs.scheduler import RunReport, TableResult, run_tables
from lakehouse.spark import parse, unparsed
from lakehouse.storage import location
from lakehouse.writes import rules

PAYMENTS = pa.schema(
    [("payment_id", pa.int64()), ("order_id", pa.int64()), ("paid_on", pa.date32()), ("amount", pa.float64())]
)
ORDERS_HEADER = "order_id,customer_id,order_date,updated_at,status,amount"


def orders_csv(*lines: str) -> str:
    """A file of orders; a line gives order, customer, date, updated at, status, amount."""
    return "\n".join([ORDERS_HEADER, *lines]) + "\n"


def json_lines(*records: Mapping[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in records)


def customer(number: int, name: str, city: str, as_of: str) -> dict[str, Any]:
    return {"customer_id": number, "name": name, "city": city, "as_of": as_of}


def parquet(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(zip(schema.names, r, strict=True)) for r in rows], schema), held)
    return held.getvalue()


def payments_file(*rows: tuple[int, int, str, float]) -> bytes:
    """A file of payments; a row gives payment, order, day, amount."""
    return parquet([(p, o, date.fromisoformat(day), amount) for p, o, day, amount in rows], PAYMENTS)


def snapshot_date() -> Column:
    """Return the date at the end of a snapshot's file name; null where it has none."""
    return F.regexp_extract("_source_file", r"_(\d{4}-\d{2}-\d{2})\.[a-z]+$", 1).try_cast("date")


@dataclass(frozen=True)
class RunResults:
    """A report with its results by table."""

    report: RunReport

    def __getitem__(self, name: str) -> TableResult:
        return next(one for one in self.report.results if one.table == name)

    @property
    def statuses(self) -> dict[str, str]:
        return {one.table: one.status for one in self.report.results}

    @property
    def errors(self) -> dict[str, str]:
        return {one.table: one.error for one in self.report.results if one.error}

    def counts(self, name: str) -> dict[str, int]:
        outcome = self[name].outcome
        assert outcome is not None, f"{name} wrote nothing: {self[name]}"
        return dict(outcome.rows)


@dataclass(frozen=True)
class TestLake:
    """A lake with the tables of a graph; `declaring` gives the same folder with others."""

    __test__ = False

    spark: SparkSession
    lake: Lake

    @property
    def root(self) -> Path:
        return self.lake.root

    @property
    def engine(self) -> SparkEngine:
        return SparkEngine.of(self.spark)

    def with_tables(self, *declared: Declaration) -> TestLake:
        return replace(self, lake=Lake(graph.build(declared), self.root))

    def folder(self, source: str) -> Path:
        declared = self.lake.graph.declarations[source]
        assert isinstance(declared, Source)
        return self.root / "landing" / declared.landing

    def land(self, source: str, name: str, content: str | bytes) -> Path:
        """Put a file in place whole, packed where its name says so."""
        file = self.folder(source) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        location.put_if_changed(
            file, gzip.compress(data, mtime=0) if name.endswith(".gz") and isinstance(content, str) else data
        )
        return file

    def plan(self, *selectors: str, request: Request | None = None) -> dict[str, Step]:
        return {s.table: s for s in plan_steps(self.lake, self.lake.graph.select(selectors), request or Request())}

    def attempt(
        self, *selectors: str, request: Request | None = None, run: str = "run", parallel: int = 2
    ) -> RunResults:
        """A run, whatever becomes of it."""
        names = self.lake.graph.select(selectors)
        return RunResults(
            run_tables(self.engine, self.lake, names, request or Request(), Run(run, "revision"), parallel)
        )

    def run(self, *selectors: str, full_refresh: bool = False, **more: Any) -> RunResults:
        """A run that must not fail."""
        if full_refresh:
            more["request"] = Request(frozenset(self.lake.graph.select(selectors)))
        done = self.attempt(*selectors, **more)
        assert not done.report.has_failed, done.errors
        return done

    # --- reading without Spark --------------------------------------------------------------------------------------

    def version(self, name: str) -> int | None:
        opened = table_log.open_log(self.lake.path(name))
        return opened.version if opened else None

    def open_log(self, name: str) -> table_log.TableLog:
        opened = table_log.open_log(self.lake.path(name))
        assert opened is not None, name
        return opened

    def versions(self) -> dict[str, int | None]:
        return {name: self.version(name) for name in self.lake.graph.declarations}

    def record(self, name: str) -> Record:
        found = table_log.read_last_record(self.lake.path(name))
        assert found is not None
        return found

    def rows(self, name: str, *columns: str) -> list[tuple[Any, ...]]:
        """A table's rows in order, of the declared columns unless told."""
        return _rows(self.lake.path(name), columns or self.columns(name))

    def rows_changed(self, name: str, column: str, version: int) -> set[Any]:
        """The values of a column in the rows that stand otherwise since the version before."""
        table = DeltaTable(str(self.lake.path(name)), version=version).to_pyarrow_table().to_pylist()
        before = DeltaTable(str(self.lake.path(name)), version=version - 1).to_pyarrow_table().to_pylist()
        return {row[column] for row in table if row not in before} | {row[column] for row in before if row not in table}

    def columns(self, name: str) -> tuple[str, ...]:
        declared = self.lake.graph.declarations[name]
        added = ("valid_from", "valid_to", "is_current")
        history = isinstance(declared, Table) and isinstance(declared.write, History)
        return (*declared.columns, *(added if history else ()))

    def content(self) -> dict[str, list[tuple[Any, ...]]]:
        """The rows of every table that there is, bronze left out: its rows say when they came."""
        tables = (n for n, d in self.lake.graph.declarations.items() if isinstance(d, Table))
        return {name: self.rows(name) for name in tables if self.version(name) is not None}

    def quarantine(self, name: str, *columns: str) -> list[tuple[Any, ...]]:
        path = self.lake.quarantine_path(name)
        return _rows(path, columns or tuple(rules.QUARANTINE_COLUMNS)) if path.exists() else []

    def originals(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(text) for (text,) in self.quarantine(name, "original")]

    def history(self, source: str) -> list[Manifest]:
        declared = self.lake.graph.declarations[source]
        assert isinstance(declared, Source)
        return self.lake.landing_zone(declared).read_history()

    def rejected(self, source: str) -> dict[str, str]:
        """The reasons for which files were rejected, by name below the source's folder."""
        folder = self.folder(source).relative_to(self.root / "landing").as_posix()
        found = (one for manifest in self.history(source) for one in manifest.rejected_files)
        return {one.path.removeprefix(f"{folder}/"): one.reason for one in found}


def _rows(path: Path, columns: Iterable[str]) -> list[tuple[Any, ...]]:
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
    """A file of items; a line gives id, at, value."""
    return "\n".join(["id,at,value", *lines]) + "\n"


def parse_items(items: DataFrame) -> DataFrame:
    return items.select(
        *[parse(c, kind).alias(c) for c, kind in ITEM_TYPES.items()], unparsed(ITEM_TYPES), *ORIGIN_COLUMNS
    )


def items_table(
    write: WriteMode | None = None, function: Callable[[DataFrame], DataFrame] = parse_items, **more: Any
) -> Table:
    """A table of items driven by the landed ones."""
    write = write or Merge(newest_by=("at",))
    options = {"columns": ITEM_TYPES, "key": ("id",), "items": "raw.items", **more}
    return table("clean.items", write=write, **options)(function)
