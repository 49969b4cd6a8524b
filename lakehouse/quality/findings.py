"""Findings: rejected files, and rows that a table's last commit quarantined. Without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakehouse.definitions.sources import Source

if TYPE_CHECKING:
    from lakehouse.catalog import Catalog


@dataclass(frozen=True)
class Finding:
    """Data of one table that did not get through.

    Attributes:
        rejected_files: The number of files in the landing zone that are rejected.
        quarantined_rows: The number of rows that the table's last commit quarantined.
    """

    table: str
    rejected_files: int = 0
    quarantined_rows: int = 0

    def describe(self) -> str:
        """Return the finding in words."""
        parts = []
        if self.rejected_files:
            parts.append(f"{_count(self.rejected_files, 'file is', 'files are')} rejected")
        if self.quarantined_rows:
            parts.append(f"the last commit quarantined {_count(self.quarantined_rows, 'row', 'rows')}")
        return f"{self.table}: {', and '.join(parts)}"


def find_findings(catalog: Catalog, names: Iterable[str]) -> Iterator[Finding]:
    """Yield the findings of the tables, by the landing zone, the manifests and the ledger.

    They are the same after a run that was killed or repeated, until the file is gone or the next commit is clean.
    """
    for name in names:
        declared, log = catalog.graph.declarations[name], catalog.read_log(name)
        landing = catalog.get_landing_zone(declared) if isinstance(declared, Source) else None
        rejected = landing.find_rejected_files(landing.read_history()) if landing else []
        last = log.last if log else None
        finding = Finding(name, len(rejected), last.rows.get("quarantined", 0) if last else 0)
        if finding != Finding(name):
            yield finding


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
