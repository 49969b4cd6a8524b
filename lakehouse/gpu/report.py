"""Report of the operators of each table's plans that would run on a GPU. It needs no GPU.

The RAPIDS plugin explains a plan of Spark before it is executed: nothing is computed or written. Plans that read
Delta's own log are left out, as the plugin leaves them to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, cast

from lakehouse.catalog import Catalog
from lakehouse.definitions.identifiers import quote_identifier
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Declaration, Table
from lakehouse.definitions.write_modes import Append, History, Merge, Replace
from lakehouse.deltalog.commit_record import InputVersion, Run
from lakehouse.engine.spark.engine import SparkEngine
from lakehouse.engine.spark.unexecuted import UnexecutedPlan, explain_with, plan_rows, plan_save, plan_statement
from lakehouse.errors import SessionError
from lakehouse.gpu.explanation import Plan, TableReport, parse_explanation
from lakehouse.plan.steps import Build
from lakehouse.storage.location import to_spark_uri
from lakehouse.writes import audit, executor, row_preserving, rules, transforms
from lakehouse.writes.table_writer import Batch, TableWriter

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lakehouse.engine.spark.tables import SparkTables

_EXPLAINER: Final = "com.nvidia.spark.rapids.ExplainPlan.explainPotentialGpuPlan"
NamedPlans = Iterator[tuple[str, UnexecutedPlan]]


def report_tables(spark: SparkSession, catalog: Catalog, names: Iterable[str]) -> list[TableReport]:
    """Report on tables with built inputs.

    Args:
        spark: A session with the plugin on its class path.
        catalog: The catalog.
        names: The tables' names.
    """
    spark.conf.set("spark.rapids.sql.explain", "NONE")  # otherwise the plugin also logs each plan
    return [_report_table(spark, catalog, catalog.graph.declarations[name]) for name in names]


def _report_table(spark: SparkSession, catalog: Catalog, declared: Declaration) -> TableReport:
    """Explain the plans of one table. If there is no plan, the report has the reason instead."""
    if isinstance(declared, Source):
        return TableReport(declared.name, (), "landed files are read without Spark")
    inputs = {use.table: catalog.read_log(use.table) for use in declared.inputs.values()}
    if missing := [name for name, log in inputs.items() if log is None]:
        return TableReport(declared.name, (), f"{', '.join(missing)} is not built yet")
    pinned = {name: InputVersion(log.version, 1) for name, log in inputs.items() if log}
    work = TableWriter(
        SparkEngine.wrap_session(spark), catalog, Run("gpu-report", ""), Build(table=declared.name, inputs=pinned)
    )
    explanations = dict[str, list[str]]()
    # Each plan is explained before the next is made. A plan that is made after rows were cached reads the cache.
    for name, plan in _plan_table(work, declared):
        explanations.setdefault(name, []).append(_explain(_get_session(work), plan))
    plans = tuple(Plan(name, parse_explanation("\n".join(texts))) for name, texts in explanations.items())
    return TableReport(declared.name, plans, is_cached_for_suite=work.has_suite(declared))


def _explain(spark: SparkSession, plan: UnexecutedPlan) -> str:
    """Return the plugin's text: one line for each operator and expression.

    If the plugin cannot analyze the plan, one line of the same form reports all of it as run by the CPU.
    """
    try:
        return explain_with(spark, _EXPLAINER, plan, "ALL")
    except SessionError as error:
        return f"!Exec <Plan> all of it cannot run on GPU because {error}"


def _plan_table(work: TableWriter, table: Table) -> NamedPlans:
    if not table.write.is_row_preserving:
        rows = rules.stop_on_violation(table, executor.compute_rows(work, table, None))
        yield "build", plan_rows(rows)
        yield from _plan_writes(work, table, rows)
        return
    batch = work.stage_batch(table, work.read_snapshot(table.incremental_input_table))
    if isinstance(table.write, History):
        yield from _plan_history(work, table, table.write, batch)
    else:
        yield from _plan_keyed(work, table, batch)
    if work.catalog.get_landed_source(table):
        yield "audit", plan_rows(batch.count_input())


def _plan_keyed(work: TableWriter, table: Table, batch: Batch) -> NamedPlans:
    """Plan a first build, then an update, of a table with append or merge."""
    is_merge = not table.write.is_append_only
    rows = rules.stop_on_violation(table, batch.staged).select(*work.select_written_columns(batch.staged))
    yield "build", plan_rows(rows)
    yield from _plan_writes(work, table, rows)
    yield "audit", plan_rows(audit.aggregate_batch(table, batch.staged, is_merge, has_rules=False))
    if not is_merge:
        yield "audit", plan_rows(audit.aggregate_batch(table, batch.staged, False))
        return
    with _mark_as_cached(batch.staged) as staged:
        yield "audit", plan_rows(audit.aggregate_batch(table, staged))
        if work.catalog.read_log(table.name):
            existing, columns = work.tables.read_latest(work.path), work.select_written_columns(staged)
            yield (
                "compare",
                plan_rows(transforms.classify(table, transforms.keep_newest_per_key(table, staged), existing, columns)),
            )


def _plan_history(work: TableWriter, table: Table, history: History, batch: Batch) -> NamedPlans:
    yield "build", plan_rows(batch.staged)
    with _mark_as_cached(batch.staged) as staged:
        versions = row_preserving.compute_versions(work, table, history, staged, batch.input_rows)
        yield "build", plan_rows(versions)
        yield from _plan_writes(work, table, versions)
        yield "audit", plan_rows(audit.aggregate_batch(row_preserving.key_by_observation(table, history), staged))
        if work.catalog.read_log(table.name):
            existing = work.tables.read_latest(work.path).select(*versions.columns)
            with _mark_as_cached(versions) as rows:
                differences = transforms.compute_differences(rows, existing, (*table.key, "valid_from"), "_delete")
                yield "compare", plan_rows(differences)


@contextmanager
def _mark_as_cached(rows: DataFrame) -> Iterator[DataFrame]:
    """Mark the rows as cached, as `keyed` does in a run. Nothing computes them here."""
    cached = rows.persist()
    try:
        yield cached
    finally:
        cached.unpersist()


def _plan_writes(work: TableWriter, table: Table, rows: DataFrame) -> NamedPlans:
    """Plan each command with which `lakehouse.engine.spark.tables` may commit the rows.

    A merge is planned only for an existing table. Its source here is the table itself: the plugin checks a command's
    settings, not its rows.
    """
    write, path = table.write, to_spark_uri(work.path)
    yield "write", plan_save(rows, "Overwrite", path, overwriteSchema="true")
    if isinstance(write, Append | Merge):
        yield "write", plan_save(rows, "Append", path, mergeSchema="false")
    if isinstance(write, Replace):
        condition = f"`{write.partition}` IS NULL"
        yield "write", plan_save(rows, "Overwrite", path, replaceWhere=condition, mergeSchema="false")
    if isinstance(write, Merge | History) and work.catalog.read_log(table.name):
        yield "write", plan_statement(_get_session(work), _merge_statement(table, path))


def _merge_statement(table: Table, path: str) -> str:
    name, key = f"delta.{quote_identifier(path)}", table.key
    condition = " AND ".join(f"t.`{column}` = s.`{column}`" for column in key)
    is_deleted = f"s.`{key[0]}` IS NULL"
    delete = f"WHEN MATCHED AND {is_deleted} THEN DELETE" if isinstance(table.write, History) else ""
    return (
        f"MERGE INTO {name} t USING {name} s ON {condition} {delete} "
        f"WHEN MATCHED AND NOT {is_deleted} THEN UPDATE SET * WHEN NOT MATCHED AND NOT {is_deleted} THEN INSERT *"
    )


def _get_session(work: TableWriter) -> SparkSession:
    """Return the session of the table's write: the plugin explains plans of Spark alone."""
    return cast("SparkTables", work.tables).spark
