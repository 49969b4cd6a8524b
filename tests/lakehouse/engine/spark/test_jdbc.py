"""Extracts of a database, compared with the landed file of the day before."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse.engine.spark import jdbc
from lakehouse.storage.location import put_if_changed
from tests.lakes import payments_file

ROWS = payments_file((1, 1, "2024-01-01", 1.0))


@pytest.fixture
def extract(tmp_path: Path) -> Path:
    (tmp_path / "landing" / "payments").mkdir(parents=True)
    (tmp_path / "extract.parquet").write_bytes(ROWS)
    return tmp_path / "extract.parquet"


def has_same_rows(extract: Path, path: str = "payments/a.parquet") -> bool:
    return jdbc._has_same_rows(extract, extract.parent / "landing", path)


def test_a_landed_extract_has_the_same_rows(extract: Path) -> None:
    landed = extract.parent / "landing" / "payments" / "a.parquet"
    assert not has_same_rows(extract)
    for content, is_same in ((ROWS, True), (payments_file((1, 1, "2024-01-01", 2.0)), False), (ROWS[:-9], False)):
        put_if_changed(landed, content)
        assert has_same_rows(extract) is is_same


def test_a_link_in_the_landing_zone_is_not_followed(extract: Path) -> None:
    folder = extract.parent / "landing"
    (folder / "payments" / "a.parquet").symlink_to(extract)
    (folder / "linked").symlink_to(extract.parent)
    assert not has_same_rows(extract)
    assert not has_same_rows(extract, "linked/extract.parquet")
