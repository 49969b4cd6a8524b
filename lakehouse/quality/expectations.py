"""Validate a table with its Great Expectations suite before a reader can see a changed row.

A suite is a file in Great Expectations' own JSON, conf/expectations/<layer>/<table>.json. The import of Great
Expectations takes seconds, so it is local to its functions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from lakehouse.catalog import Suites
from lakehouse.causes import describe_cause
from lakehouse.errors import SuiteError, get_first_line
from lakehouse.quality import report

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult
    from pyspark.sql import DataFrame

logger = logging.getLogger(__name__)
# Tables are written side by side, but Great Expectations keeps its context in a global variable.
_VALIDATION_LOCK = Lock()


def validate(suites: Suites, table: str, rows: DataFrame, run: str) -> None:
    """Validate a table's staged rows with its suite, and add the result to Data Docs.

    A failed expectation of severity critical, which is the default, stops the table. Others are logged.

    Args:
        rows: the whole table as it would be after the write.

    Raises:
        SuiteError: critical expectations are not met or could not be evaluated. The message lists them all.
    """
    expectations = _read_suite(suites.get_path(table))
    with _VALIDATION_LOCK:
        try:
            result = _evaluate(table, expectations, rows, run)
            page = report.add_result(suites.data_docs, table, run, result)
        except Exception as error:  # The published version stays, whatever fails inside.
            reason = f"{type(error).__name__}: {describe_cause(error)}".rstrip(".")
            raise SuiteError(
                f"{table}: Great Expectations could not validate the table: {reason}. Nothing was written."
            ) from error
    if failed := list(_describe_failed(result, "critical")):
        raise SuiteError(
            f"{table}: the suite {suites.get_path(table)} failed: {'; '.join(failed)}. Nothing was written; see {page}."
        )
    for description in _describe_failed(result, "warning"):
        logger.warning("%s: %s", table, description)


def _read_suite(file: Path) -> list[dict[str, Any]]:
    try:
        suite = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SuiteError(f"{file} is not JSON: {error}.") from error
    if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list):
        raise SuiteError(f"{file} is not a suite: it needs a list of expectations.")
    return list(suite["expectations"])


def _evaluate(
    table: str, expectations: list[dict[str, Any]], rows: DataFrame, run: str
) -> ExpectationSuiteValidationResult:
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )
    from great_expectations.expectations.registry import get_expectation_impl

    for expectation in expectations:  # A suite would drop unknown types silently.
        get_expectation_impl(expectation["type"])
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        analytics_enabled=False,  # Otherwise each use is reported to the makers of Great Expectations.
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=expectations))
    asset = context.data_sources.add_spark("staged", persist=False).add_dataframe_asset(table)
    batch = asset.add_batch_definition_whole_dataframe("batch").get_batch({"dataframe": rows})
    # BASIC starts no jobs to collect all rows that do not meet an expectation.
    result = batch.validate(suite, result_format="BASIC")
    result.meta["run_id"] = RunIdentifier(run_name=run)
    return result


def _describe_failed(result: Any, severity: str) -> Iterator[str]:
    for expectation in result.results:
        if not expectation.success and expectation.expectation_config.severity == severity:
            yield _describe(expectation)


def _describe(expectation: Any) -> str:
    """Describe a failed expectation in a few words."""
    config = expectation.expectation_config
    arguments = {name: value for name, value in config.kwargs.items() if name != "batch_id" and value is not None}
    call = f"{config.type}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
    if messages := report.list_error_messages(expectation.exception_info or {}):
        return f"{call} could not be evaluated: {get_first_line(ValueError(messages[0]))}"
    observed = expectation.result.get("observed_value", expectation.result.get("unexpected_percent"))
    return f"{call}, observed {observed!r}"
