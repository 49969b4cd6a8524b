"""Commands on quarantined rows."""

from __future__ import annotations

import pytest

from tests.lakehouse.cli.conftest import Command
from tests.lakes import orders_csv


@pytest.fixture
def quarantined(lakehouse: Command, session_starts: list[object]) -> Command:
    """The command line on a lake with one order, and one quarantined row of clean.orders."""
    orders = ("1,10,2024-01-01,2024-01-01 08:00:00,NEW,5", "2,10,2024-02-01,2024-01-01 08:00:00,NEW,-1")
    lakehouse.lake.land("raw.orders", "1.csv", orders_csv(*orders))
    lakehouse.lake.run("raw.orders", "clean.orders")
    return lakehouse


def test_list_counts_rows_by_rule(quarantined: Command) -> None:
    [summary] = quarantined.json("quarantine", "list")
    expected = ("clean.orders", 1, {"amount_is_not_negative": 1})
    assert (summary["table"], summary["pending"], summary["rules"]) == expected
    assert "1 amount_is_not_negative" in quarantined("quarantine", "list")


def test_list_of_an_empty_lake(lakehouse: Command) -> None:
    assert "No row was ever quarantined." in lakehouse("quarantine", "list")


def test_show_prints_rows_as_landed(quarantined: Command) -> None:
    [reject] = quarantined.json("quarantine", "show", "clean.orders")
    assert (reject["_row"], reject["original"]["amount"]) == (2, "-1")
    assert "amount='-1'" in quarantined("quarantine", "show", "clean.orders")
    assert "'clean.x' is not a table with a quarantine" in quarantined("quarantine", "show", "clean.x", exit_code=2)


ODD_NAME = "two\nlines [red]\x1b[2J\u202e.csv"
ODD_ROW = f"orders/{ODD_NAME}"


SELECTIONS = [
    ((), [(ODD_ROW, 3), (ODD_ROW, 2), (ODD_ROW, 1), ("orders/1.csv", 3), ("orders/1.csv", 2)]),
    (("--rule", "amount_is_not_negative"), [(ODD_ROW, 3), ("orders/1.csv", 2)]),
    (("--rule", "parsed"), [(ODD_ROW, 2), (ODD_ROW, 1)]),
    (("--rule", "parsed: customer_id"), [(ODD_ROW, 2)]),
    (("--rule", "day_is_known", "--run", "A"), [("orders/1.csv", 3)]),
    (("--file", "1.csv"), [("orders/1.csv", 3), ("orders/1.csv", 2)]),
    (("--file", "landing/orders/1.csv", "--rule", "day_is_known"), [("orders/1.csv", 3)]),
    (("--file", ODD_ROW, "--run", "A"), []),
    (("--run", "B", "--limit", "1"), [(ODD_ROW, 3), (ODD_ROW, 2), (ODD_ROW, 1)]),
]


@pytest.fixture
def two_runs(lakehouse: Command, session_starts: list[object]) -> Command:
    """The command line on a lake where runs A and B quarantined rows of three rules. B's file has an odd name."""
    updated = "2024-01-01 08:00:00,NEW"
    good = f"2024-01-01,{updated},5"
    for run, name, lines in (
        (
            "A",
            "1.csv",
            [f"1,10,{good}", f"2,10,2024-02-01,{updated},-1", f"3,10,,{updated},5"],
        ),
        ("B", ODD_NAME, [f"{'9' * 1000},10,{good}", f"5,x,{good}", f"6,10,2024-02-01,{updated},-6"]),
    ):
        lakehouse.lake.land("raw.orders", name, orders_csv(*lines))
        lakehouse.lake.run("raw.orders", "clean.orders", run=run)
    return lakehouse


def find_rows(two_runs: Command, options: tuple[str, ...]) -> list[tuple[str, int]]:
    rejects = two_runs.json("quarantine", "show", "clean.orders", *options)
    return [(reject["_source_file"], reject["_row"]) for reject in rejects]


def test_show_selects_rows_and_lists_newest_first(two_runs: Command) -> None:
    for options, rows in SELECTIONS:
        assert find_rows(two_runs, options) == rows, options
    lines = two_runs("quarantine", "show", "clean.orders", "--limit", "1").splitlines()
    assert r"orders/two\nlines [red]\x1b[2J\u202e.csv" in lines[1]
    assert lines[-1] == "... 4 more rows; --limit, or --json for all of them."
    assert "no such row is quarantined" in two_runs("quarantine", "show", "clean.orders", "--rule", "day_is_knwon")


def test_show_cuts_long_values(two_runs: Command) -> None:
    output = two_runs("quarantine", "show", "clean.orders", "--rule", "parsed: order_id")
    assert "9" * 1000 not in output.replace("\n", "").replace(" ", "")
    assert "9…, customer_id='10'" in " ".join(output.split())


def test_replay_reports_rows_that_remain(quarantined: Command) -> None:
    for options in (["--dry-run"], []):
        output = quarantined("quarantine", "replay", "clean.orders", *options)
        assert "1 remain quarantined: they violate amount_is_not_negative" in output


def test_replay_without_rows(lakehouse: Command) -> None:
    assert "clean.payments: no quarantined row to replay." in lakehouse("quarantine", "replay", "clean.payments")
