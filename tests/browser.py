"""A real browser for the tests: Debian's Chromium, headless, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.stack import skip_missing

CHROME_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 60_000  # on a busy machine


@contextmanager
def open_page(address: Path | str, requests: list[str] | None = None, width: int = 1280) -> Iterator[Any]:
    """Open a page that shows a file or an address.

    Args:
        address: a file, or a URL.
        requests: a list to which the URL of each of the page's requests is added.
        width: the width of the page in pixels.
    """
    from playwright.sync_api import expect, sync_playwright

    if (chromium := shutil.which("chromium")) is None:
        skip_missing("chromium is missing (Debian, Ubuntu: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*CHROME_OPTIONS])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(TIMEOUT_MS)
        for kind in ("request", "websocket"):
            page.on(kind, lambda event: requests.append(event.url) if requests is not None else None)
        page.goto(address if isinstance(address, str) else address.as_uri(), wait_until="load")
        yield page
        browser.close()
