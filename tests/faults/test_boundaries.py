"""A run killed before and after every commit it makes, one after another, ends in the tables of an undisturbed run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import pytest

from tests.faults.compare import Content, assert_same, content
from tests.faults.deliveries import FIRST, SECOND, land
from tests.faults.processes import Order, Runs
from tests.lakes import TestLake

MODULES = ("tests.orders",)
Lakes = Callable[..., TestLake]


@dataclass(frozen=True)
class Undisturbed:
    """After a delivery's run that nothing disturbed: the commits that it made, and the tables."""

    commits: list[str]
    tables: Content


@pytest.fixture(scope="module")
def undisturbed(make_lake: Lakes, runs: Runs) -> list[Undisturbed]:
    lake = make_lake(modules=MODULES, name="undisturbed")
    found = []
    for delivery in (FIRST, SECOND):
        land(lake, delivery)
        commits = runs.completed(Order(str(lake.root), MODULES))
        found.append(Undisturbed(commits, content(lake)))
    assert all(found[1].tables.values()), "every table and quarantine has rows to compare"
    assert all(found[0].tables.get(name) != rows for name, rows in found[1].tables.items())
    return found


def test_a_run_killed_before_and_after_each_of_its_commits(
    make_lake: Lakes, runs: Runs, undisturbed: list[Undisturbed]
) -> None:
    lake = make_lake(modules=MODULES, name="killed")
    for delivery, wanted in zip((FIRST, SECOND), undisturbed, strict=True):
        land(lake, delivery)
        assert deaths(lake, runs) == {f"{when} {name}" for name in wanted.commits for when in ("before", "after")}
        assert runs.completed(Order(str(lake.root), MODULES)) == []
        assert_same(lake, wanted.tables)


def deaths(lake: TestLake, runs: Runs) -> set[str]:
    """Run until a run completes, each dying where none before it did; returns where they died."""
    passed: dict[str, list[str]] = {"before": [], "after": []}
    for number in count():
        when = ("before", "after")[number % 2]
        answer = runs(Order(str(lake.root), MODULES, f"dies {number}", "kill", when, tuple(passed[when])))
        if answer.code == 0:
            break
        assert answer.code == -signal.SIGKILL, runs.said()
        passed[when].append(answer.reached[-1])
    return {f"{when} {name}" for when, names in passed.items() for name in names}
