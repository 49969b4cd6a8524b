"""What would run on a GPU: the RAPIDS plugin asked about each table's plan and its write, without one.

The plugin looks at a plan as Spark made it, before it runs (its `ExplainPlan.explainPotentialGpuPlan`), so that nothing is computed
and nothing written. How Delta reads its own log is left out: the plugin leaves that to the CPU.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from lakehouse.catalog import Lake
from lakehouse.definitions.identifiers import quote_identifier
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.definitions.write_modes import Append, History, Merge, Replace
from lakehouse.deltalog.commit_record import InputVersion
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.engine.spark.rapids import explain_on_gpu
from lakehouse.plan.steps import Build
from lakehouse.runs.scheduler import create_run
from lakehouse.storage.location import to_spark_uri
from lakehouse.writes import audit, executor, keyed, rules, transforms
from lakehouse.writes.table_writer import Batch, TableWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lakehouse.engine.spark.tables import SparkTables

# As the plugin marks them. A `^` expression is computed on the CPU within an operator that stays on the GPU, a `#` operator is left out
# of a GPU's plan: a sort before a join that needs none there.
_LINE: Final = re.compile(r"^\s*([*!@#$^])(\w*) <([^>]+)> (.*)$")
_REASON: Final = re.compile(r" because (.*)$")
ON_GPU, CPU_BRIDGE, IGNORED = "*", "^", "#"
_OPERATORS: Final = ("Exec", "Command")


@dataclass(frozen=True)
class Node:
    """An operator or expression of a plan, and what would become of it."""

    mark: str
    kind: str
    name: str
    reason: str = ""

    @property
    def is_operator(self) -> bool:
        return self.kind in _OPERATORS


@dataclass(frozen=True)
class Plan:
    """One of a table's plans: what makes its rows (``build``), counts them (``audit``), compares them with the table (``compare``) or
    commits them (``write``)."""

    name: str
    nodes: tuple[Node, ...]

    def operators(self) -> list[Node]:
        return [node for node in self.nodes if node.is_operator and node.mark != IGNORED]

    def gpu_operators(self) -> int:
        return sum(node.mark == ON_GPU for node in self.operators())

    def expressions(self) -> Mapping[str, int]:
        """How many expressions have each mark."""
        return Counter(node.mark for node in self.nodes if not node.is_operator)

    def fallbacks(self) -> Mapping[tuple[str, str], int]:
        """What does not run on the GPU, by name and reason; not what would, if something else did."""
        return Counter((one.name, one.reason) for one in self.nodes if one.mark == "!")

    def cpu_bridges(self) -> Mapping[tuple[str, str], int]:
        """The expressions that the CPU computes within a GPU's operator, those that are the cause."""
        found = (one for one in self.nodes if one.mark == CPU_BRIDGE and "avoids excess" not in one.reason)
        return Counter((one.name, one.reason) for one in found)


@dataclass(frozen=True)
class TableReport:
    """A table's plans. ``held``: its rows are kept while its suite is checked; that the CPU reads them then is in none of the plans."""

    table: str
    plans: tuple[Plan, ...]
    missing: str = ""
    is_cached: bool = False

    @property
    def operator_count(self) -> int:
        return sum(len(plan.operators()) for plan in self.plans)

    @property
    def gpu_operator_count(self) -> int:
        return sum(plan.gpu_operators() for plan in self.plans)


def coverage(reports: Iterable[TableReport]) -> float | None:
    """The share of operators that would run on the GPU; None where there are none."""
    found = list(reports)
    operators = sum(one.operator_count for one in found)
    return sum(one.gpu_operator_count for one in found) / operators if operators else None


def report_tables(spark: SparkSession, lake: Lake, names: Iterable[str]) -> list[TableReport]:
    """What would become of each of these tables, on a session that has the plugin's classes; the lake must hold their inputs."""
    spark.conf.set("spark.rapids.sql.explain", "NONE")  # it would print each plan, too
    return [_report_table(spark, lake, lake.graph.declarations[name]) for name in names]


def _report_table(spark: SparkSession, lake: Lake, declared: Declaration) -> TableReport:
    inputs = (
        {} if isinstance(declared, Source) else {one.table: lake.log(one.table) for one in declared.inputs.values()}
    )
    if absent := [name for name, log in inputs.items() if log is None]:
        return TableReport(declared.name, (), f"{', '.join(absent)} is not built yet")
    pinned = {name: InputVersion(log.version, 1) for name, log in inputs.items() if log}
    work = TableWriter(SparkEngine.of(spark), lake, create_run(), Build(table=declared.name, inputs=pinned))
    found = dict[str, list[str]]()
    # One by one: a plan reads what is kept from where it is kept, once it is.
    for name, plan in _source_plans(work, declared) if isinstance(declared, Source) else _table_plans(work, declared):
        found.setdefault(name, []).append(explain_on_gpu(_session_of(work), plan))
    if not found:
        return TableReport(declared.name, (), "nothing was landed yet")
    held = isinstance(declared, Table) and work.has_suite(declared)
    plans = tuple(Plan(name, parse_nodes("\n".join(said))) for name, said in found.items())
    return TableReport(declared.name, plans, is_cached=held)


def _source_plans(work: TableWriter, source: Source) -> Iterator[tuple[str, Any]]:
    landing = work.lake.landing_zone(source)
    landed = [one for one in landing.read_history() if one.files]
    if landed:
        rows = work.tables.read_landed(source, landed[-1], landing.root, {})
        yield "build", rows._jdf
        yield from _write_plans(work, source, rows)


def _table_plans(work: TableWriter, table: Table) -> Iterator[tuple[str, Any]]:
    if not table.write.is_row_preserving:
        rows = rules.stop_on_violation(table, executor.compute_rows(work, table, None))
        yield "build", rows._jdf
        yield from _write_plans(work, table, rows)
        return
    batch = work.stage_batch(table, work.read_snapshot(table.incremental_input_table))
    if isinstance(table.write, History):
        yield from _history_plans(work, table, table.write, batch)
    else:
        yield from _keyed_plans(work, table, batch)
    if work.lake.get_landed_source(table):
        yield "audit", batch.count_input()._jdf


def _keyed_plans(work: TableWriter, table: Table, batch: Batch) -> Iterator[tuple[str, Any]]:
    """Append and merge: a first build, then an update."""
    merged = not table.write.is_append_only
    rows = rules.stop_on_violation(table, batch.staged).select(*work.written_columns(batch.staged))
    yield "build", rows._jdf
    yield from _write_plans(work, table, rows)
    yield "audit", audit.aggregate_batch(table, batch.staged, merged, has_rules=False)._jdf
    if not merged:
        yield "audit", audit.aggregate_batch(table, batch.staged, False)._jdf
        return
    with _cached(batch.staged) as staged:
        yield "audit", audit.aggregate_batch(table, staged)._jdf
        if work.lake.log(table.name):
            there, columns = work.tables.read_latest(work.path), work.written_columns(staged)
            yield "compare", transforms.classify(table, transforms.newest_per_key(table, staged), there, columns)._jdf


def _history_plans(work: TableWriter, table: Table, history: History, batch: Batch) -> Iterator[tuple[str, Any]]:
    yield "build", batch.staged._jdf
    with _cached(batch.staged) as staged:
        told = keyed.compute_versions(work, table, history, staged, batch.input_rows)
        yield "build", told._jdf
        yield from _write_plans(work, table, told)
        yield "audit", audit.aggregate_batch(keyed.observation_table(table, history), staged)._jdf
        if work.lake.log(table.name):
            there = work.tables.read_latest(work.path).select(*told.columns)
            with _cached(told) as rows:
                yield "compare", transforms.differences(rows, there, (*table.key, "valid_from"), "_delete")._jdf


@contextmanager
def _cached(rows: DataFrame) -> Iterator[DataFrame]:
    """The rows as `keyed` keeps them; nothing computes them here."""
    kept = rows.persist()
    try:
        yield kept
    finally:
        kept.unpersist()


def _write_plans(work: TableWriter, declared: Declaration, rows: DataFrame) -> Iterator[tuple[str, Any]]:
    for command in _commands(work, declared, rows):
        yield "write", _plan_command(_session_of(work), command)


def _commands(work: TableWriter, declared: Declaration, rows: DataFrame) -> Iterator[Any]:
    """The commands by which `lakehouse.engine.spark.tables` commits such a table's rows, each way that there is; a merge where the table is there.

    The plugin looks at a command's own settings, not at its rows: those of a merge are the table's own here.
    """
    write = declared.write if isinstance(declared, Table) else Append()
    yield _save(work, rows, "Overwrite", overwriteSchema="true")
    if isinstance(write, Append | Merge):
        yield _save(work, rows, "Append", mergeSchema="false")
    if isinstance(declared, Source) and declared.on_redelivery == "replace":
        yield _save(work, rows, "Overwrite", replaceWhere="_batch_id IS NULL", mergeSchema="false")
    if isinstance(write, Replace):
        yield _save(work, rows, "Overwrite", replaceWhere=f"`{write.partition}` IS NULL", mergeSchema="false")
    if isinstance(declared, Table) and isinstance(write, Merge | History) and work.lake.log(declared.name):
        on = " AND ".join(f"t.`{c}` = s.`{c}`" for c in declared.key)
        name, gone = f"delta.{quote_identifier(to_spark_uri(work.path))}", f"s.`{declared.key[0]}` IS NULL"
        deletes = f"WHEN MATCHED AND {gone} THEN DELETE" if isinstance(write, History) else ""
        yield (
            _session_of(work)
            ._jsparkSession.sessionState()
            .sqlParser()
            .parsePlan(
                f"MERGE INTO {name} t USING {name} s ON {on} {deletes} "
                f"WHEN MATCHED AND NOT {gone} THEN UPDATE SET * WHEN NOT MATCHED AND NOT {gone} THEN INSERT *"
            )
        )


def _save(work: TableWriter, rows: DataFrame, mode: str, **options: str) -> Any:
    jvm = _session_of(work)._jvm
    assert jvm
    told = jvm.java.util.HashMap()
    for name, value in {"path": to_spark_uri(work.path), **options}.items():
        told.put(name, value)
    return jvm.org.apache.spark.sql.execution.datasources.SaveIntoDataSourceCommand(
        rows._jdf.logicalPlan(),
        jvm.org.apache.spark.sql.delta.sources.DeltaDataSource(),
        jvm.org.apache.spark.api.python.PythonUtils.toScalaMap(told),
        getattr(jvm.org.apache.spark.sql.SaveMode, mode),
    )


def _plan_command(spark: SparkSession, command: Any) -> Any:
    """A command as a Dataset that was planned and not carried out."""
    jvm = spark._jvm
    assert jvm
    skip = jvm.org.apache.spark.sql.execution.CommandExecutionMode.SKIP()
    planned = spark._jsparkSession.sessionState().executePlan(command, skip)
    encoder = jvm.org.apache.spark.sql.catalyst.encoders.ExpressionEncoder.apply(planned.analyzed().schema())
    return jvm.org.apache.spark.sql.classic.Dataset(planned, encoder)


def parse_nodes(text: str) -> tuple[Node, ...]:
    """What the plugin said of a plan; a text within the plan may go over several lines."""
    lines = list[str]()
    for line in filter(None, text.splitlines()):
        if _LINE.match(line) or not lines:
            lines.append(line)
        else:
            lines[-1] += f" {line}"
    return tuple(_make_node(*match.groups()) for match in map(_LINE.match, lines) if match)


def _make_node(mark: str, kind: str, name: str, text: str) -> Node:
    reason = _REASON.search(text) if mark != ON_GPU else None
    # It has no kind for what it does not know.
    return Node(mark, kind or ("Exec" if name.endswith("Exec") else "Expression"), name, reason[1] if reason else "")


def _session_of(work: TableWriter) -> SparkSession:
    """Return the work's own session: the plugin explains plans of Spark alone."""
    return cast("SparkTables", work.tables).spark
