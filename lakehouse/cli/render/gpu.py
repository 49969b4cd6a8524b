"""Renderer of `gpu-report`: the share of each table's plans on a GPU, and the plugin's reasons for the rest."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from lakehouse.cli.render.printing import escape_text, format_count, make_grid, print_json
from lakehouse.gpu.explanation import BRIDGED, ON_GPU, Plan, TableReport, compute_coverage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

Reasons = Callable[[Plan], Mapping[tuple[str, str], int]]
# Characters in the table. The JSON has the whole reason.
LONGEST_REASON: Final = 160
COLUMNS: Final = (
    "table",
    "on the GPU",
    "plan",
    ">operators",
    ">on the GPU",
    ">expressions",
    ">on the GPU",
    ">by the CPU within",
)


def print_coverage(console: Console, reports: Sequence[TableReport], as_json: bool) -> None:
    """Print the parts of the tables' plans that a GPU would run."""
    if as_json:
        entries = [_as_entry(report) for report in reports]
        print_json(console, {"coverage": compute_coverage(reports), "tables": entries})
        return
    grid = make_grid(*COLUMNS)
    for report in reports:
        _add_plans(grid, report)
    console.print(grid)
    _print_reasons(console, reports, "falls back to the CPU", Plan.list_fallbacks)
    _print_reasons(console, reports, "computed by the CPU within an operator on the GPU", Plan.list_bridged)
    for layer in sorted({report.table.split(".")[0] for report in reports if report.plans}):
        share = _format_share([report for report in reports if report.table.startswith(f"{layer}.")])
        console.print(f"{layer}: {share} of the operators would run on a GPU", highlight=False)
    console.print(f"total: {_format_share(reports)}", highlight=False)
    if cached := ", ".join(report.table for report in reports if report.is_cached_for_suite):
        console.print(f"Not counted: the CPU reads rows cached for validation by a suite ({cached}).", highlight=False)


def _add_plans(grid: Grid, report: TableReport) -> None:
    for index, plan in enumerate(report.plans):
        share = "" if index else _format_share([report])
        expressions, operators = plan.list_expressions(), len(plan.list_operators())
        style = "" if plan.list_on_gpu() == operators else "yellow"
        counts = [operators, plan.list_on_gpu(), sum(expressions.values())]
        counts += [expressions.get(ON_GPU, 0), expressions.get(BRIDGED, 0)]
        grid.add_row(report.table, share, plan.name, *map(format_count, counts), style=style)
    if report.missing:
        grid.add_row(report.table, "", report.missing, style="dim")


def _format_share(reports: Sequence[TableReport]) -> str:
    share = compute_coverage(reports)
    return "no plan yet" if share is None else f"{share:.1%}"


def _print_reasons(console: Console, reports: Sequence[TableReport], title: str, reasons_of: Reasons) -> None:
    counts = Counter[tuple[str, str, str]]()
    for report in reports:
        for plan in report.plans:
            counts.update({(report.table, *reason): count for reason, count in reasons_of(plan).items()})
    if not counts:
        return
    grid = make_grid("table", title, ">times", "why")
    for (table, name, reason), count in sorted(counts.items()):
        short = textwrap.shorten(reason, LONGEST_REASON, placeholder=" ...")
        grid.add_row(table, escape_text(name), format_count(count), escape_text(short))
    console.print(grid)


def _as_entry(report: TableReport) -> Mapping[str, Any]:
    return {
        "table": report.table,
        "coverage": compute_coverage([report]),
        "plans": [_plan_entry(plan) for plan in report.plans],
        "missing": report.missing,
        "is_cached": report.is_cached_for_suite,
    }


def _plan_entry(plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.name,
        "operators": len(plan.list_operators()),
        "on_gpu": plan.list_on_gpu(),
        "expressions": dict(plan.list_expressions()),
        "fallbacks": _list_reasons(plan.list_fallbacks()),
        "cpu_bridges": _list_reasons(plan.list_bridged()),
    }


def _list_reasons(reasons: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"name": name, "reason": reason, "count": count} for (name, reason), count in sorted(reasons.items())]
