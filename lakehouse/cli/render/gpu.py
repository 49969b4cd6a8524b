"""What `gpu-report` prints: of each table how much would run on a GPU, and what would not, with the plugin's reason."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lakehouse.cli.render import printing
from lakehouse.gpu.report import BRIDGED, ON_GPU, Plan, TableReport, coverage

if TYPE_CHECKING:
    from rich.console import Console

Why = Callable[[Plan], Mapping[tuple[str, str], int]]
# In the table; the JSON has all of it.
LONGEST_REASON = 160


def report(console: Console, reports: Sequence[TableReport], as_json: bool) -> None:
    if as_json:
        printing.emit(console, {"coverage": coverage(reports), "tables": [_entry(one) for one in reports]})
        return
    shown = printing.grid(
        "table", "on the GPU", "plan", ">operators", ">on the GPU", ">expressions", ">on the GPU", ">by the CPU within"
    )
    for one in reports:
        for place, plan in enumerate(one.plans):
            whole = "" if place else _share([one])
            said, operators = plan.expressions(), len(plan.operators())
            style = "" if plan.on_gpu() == operators else "yellow"
            counts = (operators, plan.on_gpu(), sum(said.values()), said.get(ON_GPU, 0), said.get(BRIDGED, 0))
            shown.add_row(one.table, whole, plan.name, *map(printing.number, counts), style=style)
        if one.missing:
            shown.add_row(one.table, "", one.missing, style="dim")
    console.print(shown)
    _reasons(console, reports, "falls back to the CPU", Plan.fallbacks)
    _reasons(console, reports, "computed by the CPU within an operator on the GPU", Plan.bridged)
    for layer in sorted({one.table.split(".")[0] for one in reports if one.plans}):
        of = [one for one in reports if one.table.startswith(f"{layer}.")]
        console.print(f"{layer}: {_share(of)} of the operators would run on a GPU", highlight=False)
    console.print(f"in all: {_share(reports)}", highlight=False)
    if held := [one.table for one in reports if one.held]:
        console.print(
            f"Not counted: while its suite is checked rows are kept, and the CPU reads them ({', '.join(held)})",
            highlight=False,
        )


def _share(reports: Sequence[TableReport]) -> str:
    found = coverage(reports)
    return "no plan to look at yet" if found is None else f"{found:.1%}"


def _reasons(console: Console, reports: Sequence[TableReport], title: str, of: Why) -> None:
    found = Counter[tuple[str, str, str]]()
    for one in reports:
        for plan in one.plans:
            found.update({(one.table, *why): count for why, count in of(plan).items()})
    if not found:
        return
    shown = printing.grid("table", title, ">times", "why")
    for (table, name, reason), count in sorted(found.items()):
        why = textwrap.shorten(reason, LONGEST_REASON, placeholder=" ...")
        shown.add_row(table, printing.literally(name), printing.number(count), printing.literally(why))
    console.print(shown)


def _entry(one: TableReport) -> Mapping[str, Any]:
    plans = [
        {
            "plan": plan.name, "operators": len(plan.operators()), "on_gpu": plan.on_gpu(),
            "expressions": dict(plan.expressions()), "fallbacks": _told(plan.fallbacks()), "bridged": _told(plan.bridged()),
        }
        for plan in one.plans
    ]  # fmt: skip
    return {"table": one.table, "coverage": coverage([one]), "plans": plans, "missing": one.missing, "held": one.held}


def _told(why: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"what": name, "why": reason, "times": count} for (name, reason), count in sorted(why.items())]
