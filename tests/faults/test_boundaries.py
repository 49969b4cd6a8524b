"""Runs killed before and after every commit, one after another, give the tables of an undisturbed run."""

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
    """The commits of an undisturbed run after a delivery, and the tables after it."""

    commits: list[str]
    tables: Content


@pytest.fixture(scope="module")
def undisturbed(make_lake: Lakes, runs: Runs) -> list[Undisturbed]:
    lake = make_lake(modules=MODULES, name="undisturbed")
    states = []
    for delivery in (FIRST, SECOND):
        land(lake, delivery)
        commits = runs.complete(Order(str(lake.root), MODULES))
        states.append(Undisturbed(commits, content(lake)))
    assert all(states[1].tables.values()), "every table and quarantine has rows to compare"
    assert all(states[0].tables.get(name) != rows for name, rows in states[1].tables.items())
    return states


def test_runs_killed_around_each_commit_converge(make_lake: Lakes, runs: Runs, undisturbed: list[Undisturbed]) -> None:
    lake = make_lake(modules=MODULES, name="killed")
    for delivery, expected in zip((FIRST, SECOND), undisturbed, strict=True):
        land(lake, delivery)
        points = {f"{when} {name}" for name in expected.commits for when in ("before", "after")}
        assert kill_until_complete(lake, runs) == points
        assert runs.complete(Order(str(lake.root), MODULES)) == []
        assert_same(lake, expected.tables)


def kill_until_complete(lake: TestLake, runs: Runs) -> set[str]:
    """Run until a run completes, and kill each run at a new point. Return the points."""
    passed: dict[str, list[str]] = {"before": [], "after": []}
    for number in count():
        when = ("before", "after")[number % 2]
        answer = runs(Order(str(lake.root), MODULES, f"dies {number}", "kill", when, tuple(passed[when])))
        if answer.code == 0:
            break
        assert answer.code == -signal.SIGKILL, runs.read_log()
        passed[when].append(answer.reached[-1])
    return {f"{when} {name}" for when, names in passed.items() for name in names}
