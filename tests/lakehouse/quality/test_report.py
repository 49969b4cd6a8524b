"""Data Docs in a browser, for results of Great Expectations on a pandas frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

from lakehouse.quality import report
from tests.browser import open_page

SCRIPT = "<script src='https://example.com/x.js'></script>"
IN_SET: dict[str, Any] = {
    "type": "expect_column_values_to_be_in_set",
    "kwargs": {"column": "<b>origin", "value_set": ["EWR", "JFK"]},
    "notes": "New York's <i>airports</i>.",
    "severity": "warning",
}
UNKNOWN_COLUMN = {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "vaule", "max_value": 1}}


def validate(*expectations: dict[str, Any]) -> Any:
    config = DataContextConfig(store_backend_defaults=InMemoryStoreBackendDefaults(), analytics_enabled=False)
    context = gx.get_context(mode="ephemeral", project_config=config)
    suite = context.suites.add(gx.ExpectationSuite(name="clean.items", expectations=list(expectations)))
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("items")
    rows = pd.DataFrame({"<b>origin": ["EWR", SCRIPT, "x" * 1000, None]})
    batch = asset.add_batch_definition_whole_dataframe("batch").get_batch({"dataframe": rows})
    result = batch.validate(suite, result_format="BASIC")
    result.meta["run_id"] = RunIdentifier(run_name="run-1")
    return result


def test_markup_in_data_is_shown_as_text(tmp_path: Path) -> None:
    requests: list[str] = []
    with open_page(report.add_result(tmp_path, "clean.items", "run-1", validate(IN_SET)), requests) as page:
        rows, missing, unexpected, examples = page.locator("dd").all_inner_texts()
        assert (rows, missing, unexpected) == ("4", "1 (25 %)", "2 (66.7 %)")
        assert SCRIPT in examples
        assert "x" * 390 in examples and "x" * 400 not in examples
        cells = page.locator("td").all_inner_texts()
        assert cells[0].split("\n") == ["✗ not met", "warning"]
        assert "<b>origin values must belong to this set: EWR JFK." in cells[1]
        assert "New York's <i>airports</i>." in cells[1]
        assert page.locator("script, b, i").count() == 0
    assert requests == [(tmp_path / "pages" / "clean" / "items" / "run-1.html").as_uri()]


def test_an_error_of_an_expectation_is_shown(tmp_path: Path) -> None:
    with open_page(report.add_result(tmp_path, "clean.items", "run-1", validate(UNKNOWN_COLUMN))) as page:
        assert page.locator(".error").all_inner_texts() == ['Error: The column "vaule" in BatchData does not exist.']


def test_a_narrow_window_needs_no_sideways_scrolling(tmp_path: Path) -> None:
    result = report.add_result(tmp_path, "clean.items", "run-1", validate(IN_SET, UNKNOWN_COLUMN))
    for file in (result, report.get_index_path(tmp_path)):
        with open_page(file, width=360) as page:
            assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_damaged_results_do_not_stop_the_index(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "clean" / "items"
    folder.mkdir(parents=True)
    for number, content in enumerate(("{}", "[]", "{", json.dumps({"statistics": None}))):
        (folder / f"run-{number}.json").write_text(content)
    report.add_result(tmp_path, "clean.items", "run-9", validate(IN_SET))
    with open_page(report.get_index_path(tmp_path)) as page:
        assert page.locator("tbody tr").all_inner_texts() == ["run-9\tclean.items\tnot met\t0 of 1"]
