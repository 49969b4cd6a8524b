"""The RAPIDS plugin's explanation of a plan: the operators and expressions that would run on a GPU."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

# The plugin's marks. The CPU computes a BRIDGED expression within an operator that stays on the GPU.
# A LEFT_OUT operator has no place in a GPU's plan, such as a sort before a join that needs none there.
ON_GPU, BRIDGED, LEFT_OUT, FALLBACK = "*", "^", "#", "!"
_LINE: Final = re.compile(r"^\s*([*!@#$^])(\w*) <([^>]+)> (.*)$")
_REASON: Final = re.compile(r" because (.*)$")
_OPERATORS: Final = ("Exec", "Command")


@dataclass(frozen=True)
class Node:
    """An operator or expression of a plan.

    Attributes:
        mark: The plugin's mark for where it would run.
        kind: Exec, Command or Expression.
        name: The name of Spark's class.
        reason: Why it would not run on the GPU; empty if it would.
    """

    mark: str
    kind: str
    name: str
    reason: str = ""

    @property
    def is_operator(self) -> bool:
        return self.kind in _OPERATORS


@dataclass(frozen=True)
class Plan:
    """The plans of one purpose for one table.

    Attributes:
        name: build (make the rows), audit (count them), compare (with the table's rows) or write (commit them).
        nodes: The operators and expressions of these plans.
    """

    name: str
    nodes: tuple[Node, ...]

    def list_operators(self) -> list[Node]:
        """Return the operators that a GPU's plan has."""
        return [node for node in self.nodes if node.is_operator and node.mark != LEFT_OUT]

    def list_on_gpu(self) -> int:
        """Count the operators that would run on the GPU."""
        return sum(node.mark == ON_GPU for node in self.list_operators())

    def list_expressions(self) -> Mapping[str, int]:
        """Count the expressions by mark."""
        return Counter(node.mark for node in self.nodes if not node.is_operator)

    def list_fallbacks(self) -> Mapping[tuple[str, str], int]:
        """Count what cannot run on the GPU, by name and reason; not what could if something else did."""
        return Counter((node.name, node.reason) for node in self.nodes if node.mark == FALLBACK)

    def list_bridged(self) -> Mapping[tuple[str, str], int]:
        """Count the BRIDGED expressions that are the cause, by name and reason; not those that avoid a transfer."""
        causes = (node for node in self.nodes if node.mark == BRIDGED and "avoids excess" not in node.reason)
        return Counter((node.name, node.reason) for node in causes)


@dataclass(frozen=True)
class TableReport:
    """The plans of one table.

    Attributes:
        table: The table's name.
        plans: The plans, by purpose.
        missing: Why there are no plans; empty if there are.
        is_cached_for_suite: A run caches the rows while their suite runs. The CPU's reads of that cache are in no plan.
    """

    table: str
    plans: tuple[Plan, ...]
    missing: str = ""
    is_cached_for_suite: bool = False

    @property
    def operators(self) -> int:
        return sum(len(plan.list_operators()) for plan in self.plans)

    @property
    def on_gpu(self) -> int:
        return sum(plan.list_on_gpu() for plan in self.plans)


def compute_coverage(reports: Iterable[TableReport]) -> float | None:
    """Return the share of operators that would run on the GPU; None if there are no operators."""
    counts = [(report.on_gpu, report.operators) for report in reports]
    operators = sum(count for _, count in counts)
    return sum(on_gpu for on_gpu, _ in counts) / operators if operators else None


def parse_explanation(text: str) -> tuple[Node, ...]:
    """Parse the plugin's text about plans. A literal within a plan may continue on the next lines."""
    lines = list[str]()
    for line in filter(None, text.splitlines()):
        if _LINE.match(line) or not lines:
            lines.append(line)
        else:
            lines[-1] += f" {line}"
    return tuple(_parse_node(*match.groups()) for match in map(_LINE.match, lines) if match)


def _parse_node(mark: str, kind: str, name: str, text: str) -> Node:
    reason = _REASON.search(text) if mark != ON_GPU else None
    # The plugin names no kind for a class that it does not know.
    return Node(mark, kind or ("Exec" if name.endswith("Exec") else "Expression"), name, reason[1] if reason else "")
