"""Steps: what a run does to one table, and what the user asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from lakehouse.deltalog.commit_record import Consumed
from lakehouse.landing.manifest import Delivery, Manifest

Action = Literal["none", "ingest", "build", "update", "waits"]


@dataclass(frozen=True)
class Step:
    """What a run does to one table.

    ``build`` makes the table from whole inputs, ``update`` applies the changed rows between ``since`` and ``inputs``,
    ``ingest`` appends landed files, ``waits`` means that an input has no table yet. ``partitions`` are those replaced, None for
    all, ``asked`` those of them that no change touched and only a range of days asked for. ``rows`` is what would be read, None
    where it is not known (unread CSV files). ``columns_changed`` are those that readers may miss or find otherwise; ``drift`` says what becomes of files with other columns than declared.
    """

    table: str
    action: Action
    reasons: tuple[str, ...] = ()
    inputs: Mapping[str, Consumed] = field(default_factory=dict)
    since: Mapping[str, int] = field(default_factory=dict)
    batch: int = 0
    generation: int = 1
    full_refresh: bool = False
    partitions: tuple[date, ...] | None = None
    asked: tuple[date, ...] = ()
    manifest: Manifest | None = None
    files: tuple[Delivery, ...] = ()
    rows: int | None = 0
    bytes: int = 0
    schema_changes: tuple[str, ...] = ()
    added_columns: Mapping[str, str] = field(default_factory=dict)
    columns_changed: tuple[str, ...] = ()
    breaking: bool = False
    drift: tuple[str, ...] = ()
    code_changed: bool = False
    after: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        return self.action in ("ingest", "build", "update")


@dataclass(frozen=True)
class Request:
    """What the user asked of a run beyond the ordinary."""

    full_refresh: frozenset[str] = frozenset()
    since: date | None = None
    until: date | None = None
