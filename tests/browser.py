"""A real browser for the tests: Debian's Chromium, headless, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import absent

ALONE = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def browsing(file: Path, asked: list[str] | None = None) -> Iterator[Any]:
    """A page that shows the file; the addresses that it asks for are put into ``asked``."""
    from playwright.sync_api import sync_playwright

    if (chromium := shutil.which("chromium")) is None:
        absent("chromium is missing (Debian, Ubuntu: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*ALONE])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url) if asked is not None else None)
        page.goto(file.as_uri(), wait_until="load")
        yield page
        browser.close()
