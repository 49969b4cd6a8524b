"""The page in a real browser, with the real API on a small lake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.browser import open_page
from tests.example.departures import features_of
from tests.example.flights_page import (
    Served,
    command,
    flights_at_a_quarter_past_ten,
    make_lake,
    pick,
    serving_page,
    wait_until_drawn,
)
from tests.paths import PROJECT
from tests.stack import free_port, listening_addresses

PAGE = str(PROJECT / "jobs" / "page" / "page.py")

WIDE, PHONE = 1280, 390
LAST_LEG = "leg_dep_delay_min"


@pytest.fixture(autouse=True)
def own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the main module after each test: a tested page replaces it, and Dask's workers would run it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    make_lake(root)
    return root


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    with serving_page(root) as served:
        yield served


def save_picture(page: Page, file: Path) -> None:
    """Save a picture of the whole page, after its charts have their final size."""
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 2800})
    page.wait_for_timeout(1000)
    page.screenshot(path=file)


@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_flight_is_picked_from_list(served: Served, tmp_path: Path, width: int) -> None:
    numbers = (flight["flight"] for flight in served.flights)
    predicted = dict(zip(numbers, served.probabilities(), strict=True))
    flight = min(served.flights, key=lambda flight: abs(predicted[flight["flight"]] - 0.5))
    addresses: list[str] = []
    with open_page(served.page, addresses, width) as page:
        pick(page, "From", flight["origin"], flight["origin"])
        pick(page, "Flight", str(flight["flight"]), f"10:15 {flight['carrier']} {flight['flight']} to {flight['dest']}")
        shown = wait_until_drawn(page, flight)
        save_picture(page, tmp_path / f"page-{width}.png")
        assert f"\n{predicted[flight['flight']]:.0%}\n" in shown
        assert "Predicted by late_arrival version 1, the champion." in shown
        assert f"Outcome: the flight was {'late' if flight['late'] else 'not late'}." in shown
        scored = "From 26 October 2013 to 14 November 2013 (days scored: 20)"
        assert f"{scored} version 1 gave 25% on average, and 30% were late" in shown
        assert "Brier score 0.050 (0 is perfect), AUC 0.90 (0.5 is guessing)." in shown
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page must not scroll sideways"
    assert (tmp_path / f"page-{width}.png").stat().st_size > 10_000
    assert {urlsplit(address).hostname for address in addresses} == {"127.0.0.1"}, "the page calls no other host"


def test_flight_is_typed_and_explained(served: Served, tmp_path: Path) -> None:
    flight = next(flight for flight in served.flights if (flight[LAST_LEG] or 0) > 40)
    (model,) = served.ask("/model")["serving"]
    row = {name: flight[name] for name in model["input_columns"]}
    changed = row | {name: model["typical"][name] for name in row if name.startswith("leg_")}
    plain, without = served.predict("features", [row, changed])
    with open_page(served.page) as page:
        page.get_by_text("Type its number").click()
        field = page.get_by_label("Carrier and number")
        expect(page.get_by_text("Type a carrier's code and a number")).to_be_visible()
        field.fill("zz 9")
        field.press("Enter")
        expect(page.get_by_text("has no flight ZZ 9 on 2013-11-14")).to_be_visible()
        field.fill(f"{flight['carrier'].lower()}{flight['flight']}")
        field.press("Enter")
        shown = wait_until_drawn(page, flight)
        points = f"{(plain - without) * 100:.0f} percentage points"
        assert f"Most of all: aircraft's last legs, which raises the chance by {points}." in shown
        chart = page.get_by_test_id("stVegaLiteChart").nth(1)
        expect(chart).to_contain_text("Aircraft's last legs")
        drawn = chart.inner_text().splitlines()
        groups = [line for line in drawn if line[:1].isalpha()]
        assert groups[0] == "Aircraft's last legs"
        assert drawn[len(groups)] == f"{(plain - without) * 100:+.1f}"
        assert {*groups[1:]} == {
            "Airport congestion",
            "Routes of similar length",
            "Destination yesterday",
            "Weather",
            "Schedule",
            "Carrier and route",
            "Aircraft",
        }
        page.get_by_text("The values behind it").click()
        rows = page.get_by_test_id("stTable").get_by_role("row")
        expect(rows).to_have_count(1 + len(model["input_columns"]))
        values = rows.all_inner_texts()
        cells = [LAST_LEG, str(flight[LAST_LEG]), f"{model['typical'][LAST_LEG]:.4g}"]
        assert values[1].split() == cells, "values of the strongest group come first"
        save_picture(page, tmp_path / "typed.png")


@pytest.mark.parametrize("fault", ["down", "wrong key"])
def test_failing_api_is_explained(served: Served, root: Path, tmp_path: Path, fault: str) -> None:
    port, nobody = free_port(), f"http://127.0.0.1:{free_port()}"
    if fault == "down":
        env = {"SERVING_API_KEY": served.key, "SERVING_API_URL": nobody}
        words = f"The prediction API at {nobody} does not answer. Start it with lakehouse serve"
    else:
        env = {"SERVING_API_KEY": "another-key-0123456789", "SERVING_API_URL": served.api}
        words = f"The prediction API at {served.api} refuses the key. SERVING_API_KEY must be the same"
    with command(root, "app", "--port", str(port), **env), open_page(f"http://127.0.0.1:{port}") as page:
        expect(page.get_by_test_id("stAlert")).to_contain_text(words)
        expect(page.get_by_role("heading", name="EWR in the days up to the flight")).to_be_visible()
        shown = page.get_by_test_id("stMain").inner_text()
        page.screenshot(path=tmp_path / "page.png")
    assert "Traceback" not in shown
    assert env["SERVING_API_KEY"] not in shown


def test_empty_lake_names_commands_to_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("LAKEHOUSE_ROOT", str(tmp_path))
    page = AppTest.from_file(PAGE, default_timeout=60).run()
    assert [error.value for error in page.error] == [
        "gold.flight_features: there are no flights yet. Run `lakehouse land`, then `lakehouse run`."
    ]


def test_missing_tables_are_named_beside_existing_ones(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlit.testing.v1 import AppTest

    features_of(tmp_path / "lake", flights_at_a_quarter_past_ten())
    monkeypatch.setenv("LAKEHOUSE_ROOT", str(tmp_path))
    monkeypatch.setenv("SERVING_API_URL", served.api)
    monkeypatch.setenv("SERVING_API_KEY", served.key)
    page = AppTest.from_file(PAGE, default_timeout=60).run()
    assert not page.error
    assert [info.value for info in page.info] == [
        "gold.airport_daily has no rows for these days: `lakehouse run` builds it.",
        "gold.model_quality has no arrived flight that version 1 scored: "
        "`lakehouse score` scores days (`--from`, `--to`).",
    ]
    monkeypatch.delenv("SERVING_API_KEY")
    assert "SERVING_API_KEY is not set" in page.run().error[0].value


def test_page_listens_on_loopback_and_ends_completely(root: Path) -> None:
    port = free_port()
    with command(root, "app", "--port", str(port), SERVING_API_KEY="abcdefgh-kept-secret") as process:
        children = psutil.Process(process.pid).children(recursive=True)
        assert set().union(*(listening_addresses(child) for child in children)) == {("127.0.0.1", port)}
        assert not [child for child in children if "abcdefgh-kept-secret" in " ".join(child.cmdline())]
        again = subprocess.run(
            process.args, env=os.environ | {"LAKEHOUSE_ROOT": str(root)}, check=False, capture_output=True, text=True
        )
        assert again.returncode == 2
        assert f"SettingsError: 127.0.0.1:{port} is not available" in again.stderr
    assert process.returncode == 0
    assert not [child for child in children if child.is_running()]
