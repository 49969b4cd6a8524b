"""Great Expectations suites: what a whole table must satisfy before any reader sees a changed row of it.

A suite is a file in Great Expectations' own JSON, conf/expectations/<layer>/<table>.json. Great Expectations is imported where it
is used, as that takes seconds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from lakehouse.catalog import Suites
from lakehouse.errors import SuiteError, first_line
from lakehouse.quality import report

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

logger = logging.getLogger(__name__)
# Tables are written side by side, but Great Expectations keeps its context in one place.
_ONE_AT_A_TIME = Lock()


def validate(suites: Suites, table: str, rows: DataFrame, run: str) -> None:
    """Validate a table's rows as they are about to be with its suite, and put the result into Data Docs.

    An expectation whose severity is critical, as it is where none is given, stops the table; others are logged.

    Raises:
        SuiteError: an expectation is not met, or could not be evaluated; all such are listed.
    """
    expectations = _read(suites.file(table))
    with _ONE_AT_A_TIME:
        try:
            result = _validated(table, expectations, rows, run)
            page = report.add(suites.data_docs, table, run, result)
        except Exception as error:  # whatever breaks inside: what is published stays as it is
            raise SuiteError(
                f"{table}: Great Expectations could not validate it: {type(error).__name__}: {first_line(error)}. Nothing was written."
            ) from error
    if failed := list(_failed(result, "critical")):
        raise SuiteError(
            f"{table}: its suite {suites.file(table)} is not met: {'; '.join(failed)}. Nothing was written; see {page}."
        )
    for said in _failed(result, "warning"):
        logger.warning("%s: %s", table, said)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SuiteError(f"{file} is not JSON: {error}.") from error
    if not isinstance(said, dict) or not isinstance(said.get("expectations"), list):
        raise SuiteError(f"{file} is not a suite: it needs a list of expectations.")
    return list(said["expectations"])


def _validated(table: str, expectations: list[dict[str, Any]], rows: DataFrame, run: str) -> Any:
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )
    from great_expectations.expectations.registry import get_expectation_impl

    for one in expectations:  # a suite leaves out, without a word, what it does not know
        get_expectation_impl(one["type"])
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        analytics_enabled=False,  # it would tell its makers of each use
        progress_bars=ProgressBarsConfig(globally=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=expectations))
    asset = context.data_sources.add_spark("staged", persist=False).add_dataframe_asset(table)
    batch = asset.add_batch_definition_whole_dataframe("batch").get_batch({"dataframe": rows})
    # BASIC: without the jobs that would collect rows which do not meet an expectation.
    result = batch.validate(suite, result_format="BASIC")
    result.meta["run_id"] = RunIdentifier(run_name=run)
    return result


def _failed(result: Any, severity: str) -> Iterator[str]:
    for one in result.results:
        if not one.success and one.expectation_config.severity == severity:
            yield _described(one)


def _described(one: Any) -> str:
    """An expectation that is not met, in a few words."""
    config = one.expectation_config
    told = {name: value for name, value in config.kwargs.items() if name != "batch_id" and value is not None}
    said = f"{config.type}({', '.join(f'{name}={value!r}' for name, value in told.items())})"
    raised = [info["exception_message"] for info in _exceptions(one.exception_info or {})]
    if raised:
        return f"{said} could not be evaluated: {first_line(ValueError(raised[0]))}"
    return f"{said}, observed {one.result.get('observed_value', one.result.get('unexpected_percent'))!r}"


def _exceptions(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The exceptions of an evaluation: one, or one for each metric."""
    if "raised_exception" in info:
        return [info] if info["raised_exception"] else []
    return [one for one in info.values() if one.get("raised_exception")]
