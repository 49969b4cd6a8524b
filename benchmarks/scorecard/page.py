"""The scorecard as a page of tables, docs/scorecard.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.scorecard.detection import CHECKS, Tally
from benchmarks.scorecard.files import DAY_KINDS
from benchmarks.scorecard.measure import Measured

INTRODUCTION = """\
# Defects that the checks catch

`make scorecard` makes this page. It plants defects in a month of flights, runs the tables, and counts.
[howto/quality.md](howto/quality.md) describes the checks.

## Terms

Planted defects are known by file and row, independent of the tables' code. No row has part in two defects.

- **Caught**: the check that claims the kind noticed the defect, and the row or file ended where this check puts it.
- **Missed**: that check did not notice it, even if another check did.
- **Also noticed**: defects of other kinds that the check noticed. A row can violate several rules.
- **False alarm**: a row or file without a defect that a check rejected, quarantined, superseded or warned of.
"""
UNCLAIMED = """\
## Defects that no rule claims

No rule says that it catches these. Some are noticed by chance. Only a comparison with another source finds plausible
values of a single row. The suite notices some defects of the whole table (below). Nothing here can know of files that
were never delivered.

"""
DAYS = """\
## When a whole day is wrong

One day each, in which every row has the defect, or every second. The table's suite must refuse it.

"""


def render_page(untouched: Measured, planted: Measured, refused: Mapping[str, bool], when: str) -> str:
    """Return the whole page, in Markdown.

    Args:
        refused: by kind of defect of a whole day, the answer of the table's suite.
        when: sentence with the date and revision of the measurement.
    """
    claimed = {name: tally for name, tally in planted.score.kinds.items() if planted.score.claims[name]}
    unclaimed = {name: tally for name, tally in planted.score.kinds.items() if name not in claimed}
    return "\n".join(
        [
            INTRODUCTION,
            f"{summary(untouched, planted)}\n\n{when}\n",
            "## By check\n\n" + table(CHECK_HEAD, list(_by_check(untouched, planted))) + _cannot_be_planted(planted),
            "## By kind of defect\n\n" + table(KIND_HEAD, list(_by_kind(planted, claimed))),
            UNCLAIMED + table(UNCLAIMED_HEAD, list(_by_chance(unclaimed))) + "\n" + _reconciled(planted),
            DAYS + table(DAY_HEAD, list(_by_day(refused))),
        ]
    )


CHECK_HEAD = ("check", "does", "planted", "caught", "missed", "also noticed", "false alarms")
KIND_HEAD = ("defect", "check that claims it", "planted", "caught", "noticed by others alone", "not noticed")
UNCLAIMED_HEAD = ("defect", "planted", "not noticed", "noticed by")
DAY_HEAD = ("defect", "expectation", "")


def summary(untouched: Measured, planted: Measured) -> str:
    """Summarize the figures in two sentences."""
    claims = planted.score.claims
    tallies = [tally for name, tally in planted.score.kinds.items() if claims[name]]
    defects, caught = sum(tally.planted for tally in tallies), sum(tally.caught for tally in tallies)
    alarms = sum(_alarms(untouched, planted, name) for name in CHECKS)
    return (
        f"Of {defects:,} defects of {len(tallies)} kinds that a check claims, "
        f"{caught:,} were caught and {defects - caught:,} missed. "
        f"There were {alarms:,} false alarms in {untouched.rows:,} untouched rows ({untouched.files} files) "
        f"and in {planted.rows:,} rows with defects among them. "
        f"Of {len(claims) - len(tallies)} more kinds no check claims anything."
    )


def _alarms(untouched: Measured, planted: Measured, check: str) -> int:
    return untouched.score.checks[check].false_alarms + planted.score.checks[check].false_alarms


def _by_check(untouched: Measured, planted: Measured) -> Iterator[list[str]]:
    for name, does in CHECKS.items():
        tally = planted.score.checks[name]
        alarms = _alarms(untouched, planted, name)
        figures = [*_figures(tally.planted, tally.caught), _bold(tally.missed), f"{tally.other:,}", _bold(alarms)]
        yield [_code(name), does, *figures]


def _cannot_be_planted(planted: Measured) -> str:
    """Name the checks without a planted defect: only a mistake in the code can violate them."""
    names = ", ".join(f"`{name}`" for name, tally in planted.score.checks.items() if not tally.planted)
    return (
        f"\nNo landed row can break {names}: only a mistake in the table's code can. A unit test does.\n"
        if names
        else ""
    )


def _by_kind(planted: Measured, kinds: Mapping[str, Tally]) -> Iterator[list[str]]:
    order = list(CHECKS)
    for name in sorted(kinds, key=lambda kind: (order.index(planted.score.claims[kind] or ""), kind)):
        tally = kinds[name]
        figures = [*_figures(tally.planted, tally.caught), _bold(tally.other), _bold(tally.missed)]
        yield [name, _code(planted.score.claims[name] or ""), *figures]


def _by_chance(kinds: Mapping[str, Tally]) -> Iterator[list[str]]:
    for name, tally in sorted(kinds.items()):
        noticed = ", ".join(f"{_code(check)} {count:,}" for check, count in sorted(tally.noticed_by.items()))
        yield [name, *_figures(tally.planted, tally.missed), noticed or "nothing"]


def _reconciled(planted: Measured) -> str:
    """Summarize the reconciliation of the month with defects."""
    if planted.differences:
        return "`lakehouse reconcile` afterwards found: " + "; ".join(planted.differences) + ".\n"
    return (
        "`lakehouse reconcile` afterwards found no difference: "
        "every landed record is in a table, in quarantine or a duplicate. "
        "It counts the records that can be read. It sees neither rows that a file lacks nor rows within a value.\n"
    )


def _by_day(refused: Mapping[str, bool]) -> Iterator[list[str]]:
    for kind in DAY_KINDS:
        type_name, column = kind.claim
        expectation = f"`{type_name}`" + (f" of `{column}`" if column else "")
        yield [kind.name, expectation, "refused" if refused[kind.name] else "**missed**"]


def _code(check: str) -> str:
    """Format a rule's name as code; the names of other checks are words."""
    return check if " " in check else f"`{check}`"


def _figures(*counts: int) -> list[str]:
    return [f"{count:,}" for count in counts]


def _bold(count: int) -> str:
    return f"**{count:,}**" if count else "0"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
