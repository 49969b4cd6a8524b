"""Plans of rows and of commands that Spark makes and does not execute, for a plugin that explains plans.

A plan is the JVM's Dataset. Spark has no Python API for any of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NewType

from lakehouse.errors import SessionError, get_first_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

UnexecutedPlan = NewType("UnexecutedPlan", object)


def plan_rows(rows: DataFrame) -> UnexecutedPlan:
    """Return the plan that computes the rows."""
    return UnexecutedPlan(rows._jdf)


def plan_save(rows: DataFrame, mode: str, path: str, **options: str) -> UnexecutedPlan:
    """Plan the command that writes the rows to a Delta table.

    Args:
        rows: The rows; their own plan is not part of the command's.
        mode: A constant of Spark's SaveMode, such as Append.
        path: The table's path, as Spark names it.
        options: Options of the Delta writer.
    """
    spark = rows.sparkSession
    jvm: Any = spark._jvm
    java_options = jvm.java.util.HashMap()
    for name, value in {"path": path, **options}.items():
        java_options.put(name, value)
    command = jvm.org.apache.spark.sql.execution.datasources.SaveIntoDataSourceCommand(
        rows._jdf.logicalPlan(),
        jvm.org.apache.spark.sql.delta.sources.DeltaDataSource(),
        jvm.org.apache.spark.api.python.PythonUtils.toScalaMap(java_options),
        getattr(jvm.org.apache.spark.sql.SaveMode, mode),
    )
    return _plan_command(spark, command)


def plan_statement(spark: SparkSession, statement: str) -> UnexecutedPlan:
    """Plan a SQL statement, such as a MERGE."""
    session: Any = spark._jsparkSession
    return _plan_command(spark, session.sessionState().sqlParser().parsePlan(statement))


def _plan_command(spark: SparkSession, command: Any) -> UnexecutedPlan:
    jvm: Any = spark._jvm
    skip = jvm.org.apache.spark.sql.execution.CommandExecutionMode.SKIP()
    execution = spark._jsparkSession.sessionState().executePlan(command, skip)
    encoder = jvm.org.apache.spark.sql.catalyst.encoders.ExpressionEncoder.apply(execution.analyzed().schema())
    return UnexecutedPlan(jvm.org.apache.spark.sql.classic.Dataset(execution, encoder))


def explain_with(spark: SparkSession, explainer: str, plan: UnexecutedPlan, detail: str) -> str:
    """Have a plugin explain a plan.

    Args:
        spark: A session with the plugin on its class path.
        explainer: The dotted name of a static Java method, which takes a Dataset and the level of detail.
        plan: The plan.
        detail: The level of detail, as the method names it.

    Raises:
        SessionError: The method raised an error; the message is the error's first line.
    """
    from py4j.protocol import Py4JError

    method: Any = spark._jvm
    for name in explainer.split("."):
        method = getattr(method, name)
    try:
        return str(method(plan, detail))
    except Py4JError as error:
        raise SessionError(get_first_line(error)) from error
