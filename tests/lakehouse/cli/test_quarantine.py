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


def test_replay_reports_rows_that_remain(quarantined: Command) -> None:
    for options in (["--dry-run"], []):
        output = quarantined("quarantine", "replay", "clean.orders", *options)
        assert "1 remain quarantined: they violate amount_is_not_negative" in output


def test_replay_without_rows(lakehouse: Command) -> None:
    assert "clean.payments: no quarantined row to replay." in lakehouse("quarantine", "replay", "clean.payments")
