"""The demo from first file to scored flights, on January."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.example.january import rows, run, run_demo, version

DAYS, FLIGHTS, CANCELLED = 31, 27004, 521  # January, in the package's data
LATE_DELIVERY = 5144  # flights on the six days of the second delivery


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("january")
    return root, run_demo(root)


@pytest.fixture(scope="module")
def sql(demo: tuple[Path, str]) -> Callable[[str], list[dict[str, object]]]:
    return lambda text: rows(demo[0], text)


def test_every_table_holds_what_landed(sql: Callable[[str], list[dict[str, object]]]) -> None:
    counts = sql(
        """
        select (select count(*) from bronze.flights) as landed, (select count(*) from silver.flights) as flights,
            (select count(*) from silver.flights where cancelled) as cancelled,
            (select count(*) from silver.weather) as weather, (select count(*) from silver.planes) as planes,
            (select count(*) from silver.airports) as airports, (select count(*) from silver.airlines) as airlines,
            (select count(*) from gold.airport_daily) as airport_days,
            (select sum(flights) from gold.airport_daily) as daily,
            (select sum(flights) from gold.carrier_monthly) as monthly,
            (select count(*) from gold.flight_features) as features
        """
    )[0]
    assert counts == {
        "landed": FLIGHTS,
        "flights": FLIGHTS,
        "cancelled": CANCELLED,
        "weather": 26115,
        "planes": 3322,
        "airports": 1458,
        "airlines": 16,
        "airport_days": 3 * DAYS,
        "daily": FLIGHTS,
        "monthly": FLIGHTS,
        "features": FLIGHTS,
    }


def test_the_second_run_replaced_only_landed_days(demo: tuple[Path, str]) -> None:
    root, output = demo
    history = json.loads(run(root, "lakehouse.cli.main", "history", "gold.airport_daily", "--json"))
    assert [entry["version"] for entry in history] == [1, 0]
    assert history[0]["record"]["inputs"]["silver.flights"]["version"] == 1
    assert "6 partitions" in output
    assert version(root, "silver.weather") == 0


def test_every_flight_of_the_second_delivery_has_one_score(sql: Callable[[str], list[dict[str, object]]]) -> None:
    scores = sql(
        """
        select count(*) as rows, count(distinct (carrier, flight, origin, dest, sched_dep_utc)) as flights,
            min(probability) >= 0 and max(probability) <= 1 as probable, count(distinct model_version) as versions
        from gold.delay_predictions
        """
    )
    assert scores == [{"rows": LATE_DELIVERY, "flights": LATE_DELIVERY, "probable": True, "versions": 1}]


def test_every_scored_day_has_a_quality(sql: Callable[[str], list[dict[str, object]]]) -> None:
    quality = sql(
        """
        select count(*) as days, sum(scored) as scored, sum(labelled) as labelled,
            min(brier) > 0 and max(brier) < 0.5 as plausible, min(roc_auc) > 0.5 as better_than_chance
        from gold.model_quality
        """
    )
    labelled = sql("select count(late) as n from gold.flight_features where flight_date >= '2013-01-26'")[0]["n"]
    expected = {"days": 6, "scored": LATE_DELIVERY, "labelled": labelled, "plausible": True, "better_than_chance": True}
    assert quality == [expected]


def test_the_summary_shows_results_and_next_commands(demo: tuple[Path, str]) -> None:
    root, output = demo
    for expected in (
        "gold.flight_features",
        "schedule only",
        "ROC AUC",
        "total",
        "Try next",
        "lakehouse sql",
        str(root),
    ):
        assert expected in output
    assert "WARN" not in output
