"""Shuffled and duplicate snapshots, each run killed at some commit: the history in the end is the same."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

from tests.faults.compare import content
from tests.faults.processes import Order, Runs
from tests.fleet import SNAPSHOTS
from tests.lakes import TestLake

MODULES = ("tests.fleet",)
# The commits of one delivery: its manifest, raw.buses, the quarantine of clean.buses, clean.buses, mart.fleet.
MOST_COMMITS = 5


def test_shuffled_duplicate_snapshots_converge_despite_killed_runs(
    make_lake: Callable[..., TestLake], runs: Runs
) -> None:
    undisturbed = make_lake(modules=MODULES, name="undisturbed")
    for name, snapshot in SNAPSHOTS.items():
        undisturbed.land("raw.buses", name, snapshot)
    undisturbed.run()
    expected = content(undisturbed, delivered=False)

    chance = random.Random(2)
    lake = make_lake(modules=MODULES, name="killed")
    deliveries = [*SNAPSHOTS.items()] * 2
    chance.shuffle(deliveries)
    kills = 0
    for number, (name, snapshot) in enumerate(deliveries):
        lake.land("raw.buses", f"{number}/{name}", snapshot)  # In another folder it is another delivery.
        when, skip = chance.choice(("before", "after")), chance.randrange(MOST_COMMITS)
        answer = runs(Order(str(lake.root), MODULES, f"run {number}", "kill", when, skip=skip))
        assert answer.code in (0, -signal.SIGKILL), runs.read_log()
        kills += answer.code == -signal.SIGKILL
    assert kills >= len(SNAPSHOTS), "most runs died"
    runs.complete(Order(str(lake.root), MODULES))
    actual = content(lake, delivered=False)
    for table in ("clean.buses", "mart.fleet"):
        assert actual[table] == expected[table] != []
    assert actual["raw.buses"] == sorted(expected["raw.buses"] * 2), "every row landed twice"
    assert runs.complete(Order(str(lake.root), MODULES)) == []
    assert len(runs.complete(Order(str(lake.root), MODULES, full_refresh=True))) >= MOST_COMMITS - 1
    assert content(lake, delivered=False)["clean.buses"] == expected["clean.buses"]
