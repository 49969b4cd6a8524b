"""Data Docs: Great Expectations' own pages of results, made to be read without a network, and a page that leads to them.

As Great Expectations renders them, pages ask seven hosts for scripts and styles, and their list of results is empty where these do
not answer. Here, whoever looks at a result tells nobody.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

from lakehouse.storage import location

# How many results of each suite are kept.
KEPT = 30
_NEEDS_A_NETWORK = re.compile(
    r"<script.*?</script>|<(?:link|img)[^>]*\b(?:href|src)=\"https?:[^>]*>|<footer>.*?</footer>", re.DOTALL
)
_LEADS_TO_A_SUITE = re.compile(r"<a [^>]*href=\"[^\"]*expectations/[^>]*>(.*?)</a>", re.DOTALL)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
td, th { border-bottom: 1px solid #ddd; padding: .3rem .8rem; text-align: left; vertical-align: top; }
td.count { text-align: right; }
.fa-check-circle::before { content: "\\2713"; color: #187a3a; font-weight: bold; }
.fa-times::before { content: "\\2717"; color: #b3261e; font-weight: bold; }
.fa-exclamation-triangle::before { content: "\\26A0"; color: #9a6700; }
.failed { color: #b3261e; } .met { color: #187a3a; }
.navbar, .sticky, .cooltip .top, [data-toggle="collapse"] { display: none; }
"""


def add(folder: Path, table: str, run: str, result: Any) -> Path:
    """Put a result and its page in place, and the page that lists all; returns the result's page."""
    kept = folder.joinpath("results", *table.split("."))
    pages = folder.joinpath("pages", *table.split("."))
    for place in (kept, pages):
        place.mkdir(parents=True, exist_ok=True)
    said = {"table": table, "run": run, **result.to_json_dict()}
    location.put(kept / f"{run}.json", json.dumps(said, indent=1).encode())
    page = pages / f"{run}.html"
    location.put(page, _rendered(result).encode())
    for place in (kept, pages):
        for old in sorted(place.glob("[!.]*"))[:-KEPT]:  # run ids sort by time
            old.unlink(missing_ok=True)
    location.put(index(folder), _index(folder).encode())
    return page


def index(folder: Path) -> Path:
    """The page that leads to all results."""
    return folder / "index.html"


def _rendered(result: Any) -> str:
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    document = ValidationResultsPageRenderer().render(result)
    page = str(DefaultJinjaPageView().render(document))  # type: ignore[no-untyped-call]
    page = _LEADS_TO_A_SUITE.sub(r"\1", _NEEDS_A_NETWORK.sub("", page))
    page = page.replace("</head>", f"<style>{_STYLE}</style></head>", 1)
    return page.replace("<body>", '<body><p><a href="../../../index.html">All results</a></p>', 1)


def _index(folder: Path) -> str:
    results = [said for file in folder.glob("results/*/*/[!.]*.json") if (said := _result(file))]
    rows = "".join(_row(one) for one in sorted(results, key=lambda one: (one["run"], one["table"]), reverse=True))
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title><style>{_STYLE}</style></head><body>'
        "<h1>Data Docs</h1><p>What was validated before it was published; of each table the newest "
        f"{KEPT} results.</p><table><tr><th>run</th><th>table</th><th>result</th><th>expectations met</th></tr>{rows}</table></body></html>"
    )


def _result(file: Path) -> dict[str, Any] | None:
    """A result; None where it is damaged or gone by now: it is no reason to refuse another."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _row(one: dict[str, Any]) -> str:
    layer, table = one["table"].split(".")
    link = f'<a href="pages/{layer}/{table}/{escape(one["run"])}.html">{escape(one["run"])}</a>'
    state = '<td class="met">met</td>' if one["success"] else '<td class="failed">not met</td>'
    counts = f"{one['statistics']['successful_expectations']} of {one['statistics']['evaluated_expectations']}"
    return f'<tr><td>{link}</td><td>{escape(one["table"])}</td>{state}<td class="count">{counts}</td></tr>'
