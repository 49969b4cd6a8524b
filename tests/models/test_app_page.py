"""The page in a real browser, in brief: tests/example/test_page.py has the rest of it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tests.browser import open_page
from tests.example.flights_page import make_lake, pick, serving_page, wait_until_drawn


def test_the_page_shows_what_the_api_predicts(tmp_path: Path) -> None:
    make_lake(tmp_path)
    with serving_page(tmp_path) as served:
        predictions = zip(served.probabilities(), served.flights, strict=True)
        probability, flight = min(predictions, key=lambda pair: abs(pair[0] - 0.5))
        addresses: list[str] = []
        with open_page(served.page, addresses) as page:
            pick(page, "From", flight["origin"], flight["origin"])
            pick(page, "Flight", str(flight["flight"]), f"{flight['carrier']} {flight['flight']} to {flight['dest']}")
            shown = wait_until_drawn(page, flight)
    assert f"\n{probability:.0%}\n" in shown
    assert "Predicted by late_arrival version 1, the champion." in shown
    assert "version 1 gave 25% on average, and 30% were late" in shown
    assert {urlsplit(address).hostname for address in addresses} == {"127.0.0.1"}
