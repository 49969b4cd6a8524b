"""The pages for readers: their links, and the reference that is written from the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import PROJECT

DOCS = sorted((PROJECT / "docs").rglob("*.md"))
PAGES = [*sorted(PROJECT.glob("*.md")), *DOCS]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    """Return the targets of the relative links of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:", target)]


def is_broken(page: Path, target: str) -> bool:
    """Return whether a link points at no file, or at no heading of its page."""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    return not file.exists() or (bool(anchor) and anchor not in anchors(file))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_point_at_files_and_headings(page: Path) -> None:
    assert [target for target in links(page) if is_broken(page, target)] == []


def test_a_missing_file_or_heading_is_a_broken_link() -> None:
    readme = PROJECT / "README.md"
    assert not is_broken(readme, "docs/concepts.md#runs")
    assert is_broken(readme, "docs/concepts.md#no-such-heading")
    assert is_broken(readme, "docs/no_such_page.md")


def test_every_page_is_linked() -> None:
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in PAGES for target in links(page)}
    assert [page.name for page in DOCS if page not in linked] == []


def test_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_reference_is_up_to_date() -> None:
    command = [sys.executable, "-m", "docs.generate", "--check"]
    process = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
