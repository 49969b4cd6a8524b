"""Write Data Docs: a page for each validation result, and an index of the newest results.

Each page is rendered from the JSON of a result with one template. Unlike the pages of Great Expectations, it contains
no script and loads nothing from other hosts. The import of Jinja is local, as `lakehouse status` needs only a path.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from lakehouse.storage import location

if TYPE_CHECKING:
    import jinja2
    from great_expectations.core import ExpectationSuiteValidationResult

# Number of stored results for each table.
RESULTS_PER_TABLE = 30
# Longest value, sentence or error on a page, in characters. The JSON has the full text.
SHOWN_CHARACTERS = 400
# Fields of an expectation's result, each with its label and the field of its percentage.
_OBSERVED = {
    "observed_value": ("value", None),
    "element_count": ("rows", None),
    "missing_count": ("missing", "missing_percent"),
    "unexpected_count": ("unexpected", "unexpected_percent"),
    "partial_unexpected_list": ("examples", None),
    "details": ("details", None),
}


def add_result(folder: Path, table: str, run: str, result: ExpectationSuiteValidationResult) -> Path:
    """Write the JSON and page of a result, remove the oldest results of the table, and write the index.

    Returns:
        The path of the page.
    """
    results = folder.joinpath("results", *table.split("."))
    pages = folder.joinpath("pages", *table.split("."))
    for expectation in result.results:
        expectation.render()  # This adds a sentence to the JSON.
    document = {"table": table, "run": run, **result.to_json_dict()}  # type: ignore[no-untyped-call]
    content = json.dumps(document, indent=1)
    page = pages / f"{run}.html"
    for directory in (results, pages):
        directory.mkdir(parents=True, exist_ok=True)
    location.put(results / f"{run}.json", content.encode())
    location.put(page, _render_result(json.loads(content)).encode())
    for directory in (results, pages):
        for file in sorted(directory.glob("[!.]*"))[:-RESULTS_PER_TABLE]:  # run ids sort by time
            file.unlink(missing_ok=True)
    location.put(get_index_path(folder), _render_index(folder).encode())
    return page


def get_index_path(folder: Path) -> Path:
    """Return the path of the page that links to all results."""
    return folder / "index.html"


def list_error_messages(exception_info: dict[str, Any]) -> list[str]:
    """Return the errors of an expectation that could not be evaluated: one message, or one for each metric."""
    entries = [exception_info] if "raised_exception" in exception_info else exception_info.values()
    return [entry["exception_message"] for entry in entries if entry.get("raised_exception")]


@cache
def _load_template() -> jinja2.Template:
    from jinja2 import Environment, StrictUndefined

    text = files("lakehouse.quality").joinpath("data_docs.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text)


def _render_result(document: dict[str, Any]) -> str:
    failed_first = sorted(map(_summarize, document["results"]), key=lambda entry: bool(entry["is_met"]))
    return _load_template().render(result=document, expectations=failed_first)


def _render_index(folder: Path) -> str:
    entries = [entry for file in folder.glob("results/*/*/[!.]*.json") if (entry := _read_result(file))]
    newest_first = sorted(entries, key=lambda entry: (entry["run"], entry["table"]), reverse=True)
    return _load_template().render(result=None, results=newest_first, limit=RESULTS_PER_TABLE)


def _read_result(file: Path) -> dict[str, Any] | None:
    """Read the entry of a result for the index; None if the file is damaged or missing."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        statistics = document["statistics"]
        return {
            "table": ".".join(file.parent.parts[-2:]),
            "run": file.stem,
            "is_met": document["success"],
            "successful": statistics["successful_expectations"],
            "evaluated": statistics["evaluated_expectations"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _summarize(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of one expectation's result for the page."""
    config = entry["expectation_config"]
    arguments = {name: value for name, value in config["kwargs"].items() if name != "batch_id" and value is not None}
    notes = config.get("notes") or []
    return {
        "type": config["type"],
        "arguments": {name: _to_text(value) for name, value in arguments.items()},
        "sentence": _shorten(_build_sentence(config["rendered_content"])),
        "severity": config["severity"],
        "notes": [notes] if isinstance(notes, str) else notes,
        "is_met": entry["success"],
        "observed": _collect_observed(entry["result"]),
        "errors": [_shorten(message) for message in list_error_messages(entry["exception_info"] or {})],
    }


def _collect_observed(result: dict[str, Any]) -> dict[str, list[str]]:
    """Return the observed values of an expectation as text, by label."""
    observed = {}
    for field, (label, share) in _OBSERVED.items():
        if field not in result or result[field] == []:
            continue
        values = result[field] if field == "partial_unexpected_list" else [result[field]]
        percent = result.get(share) if share else None
        suffix = "" if percent is None else f" ({percent:.3g} %)"
        observed[label] = [_to_text(value) + suffix for value in values]
    return observed


def _build_sentence(rendered_content: list[dict[str, Any]]) -> str:
    """Return the sentence that Great Expectations writes for an expectation; for a table of ranges, its heading."""
    content = rendered_content[0]["value"] if rendered_content else {}
    content = content.get("header", {}).get("value", content)
    values = {name: parameter["value"] for name, parameter in content.get("params", {}).items()}
    return Template(content.get("template", "")).safe_substitute(values)


def _to_text(value: Any) -> str:
    return _shorten(json.dumps(value, ensure_ascii=False))


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
