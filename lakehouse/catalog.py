"""Where each table lies, which columns it has, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from lakehouse.definitions.graph import Graph
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import Input, Table
from lakehouse.deltalog.table_log import TableLog, open_log
from lakehouse.landing.zone import LandingZone, is_ignored
from lakehouse.storage import location
from lakehouse.storage.location import Location


@dataclass(frozen=True)
class Suites:
    """The project's suites of expectations.

    Attributes:
        folder: the suites' files, <layer>/<table>.json.
        data_docs: the folder of the validation results and their pages.
    """

    folder: Path
    data_docs: Path

    def get_path(self, table: str) -> Path:
        """Return the path of a table's suite, which need not exist."""
        return self.folder.joinpath(*table.split(".")).with_suffix(".json")

    def has_suite(self, table: str) -> bool:
        """Return whether the table has a suite."""
        return self.get_path(table).is_file()


@dataclass(frozen=True)
class Lake:
    """Where a graph's tables, landed files and manifests are, and the suites of expectations.

    ``logs`` keeps those that were opened, in a lake that stands still.
    """

    graph: Graph
    root: Location
    suites: Suites | None = None
    log_cache: dict[str, TableLog | None] | None = field(default=None, compare=False, repr=False)

    def cache_logs(self) -> Lake:
        """The lake as it stands: each log is read once, when it is asked for first."""
        return replace(self, log_cache={})

    def log(self, name: str) -> TableLog | None:
        """A table's log; None where there is no table.

        Raises:
            LedgerError: there is a table, but its log is damaged.
        """
        if self.log_cache is None:
            return open_log(self.path(name))
        if name not in self.log_cache:
            self.log_cache[name] = open_log(self.path(name))
        return self.log_cache[name]

    def path(self, name: str) -> Location:
        return self.root.joinpath("lake", *name.split("."))

    def quarantine_path(self, name: str) -> Location:
        return self.root.joinpath("lake", "quarantine", name)

    def outcomes_path(self, name: str) -> Location:
        """What became of the rejects of a table."""
        return self.root.joinpath("lake", "outcomes", name)

    def landing_zone(self, source: Source) -> LandingZone:
        return LandingZone(
            source, self.root / "landing", self.root / "manifests", lambda: self._get_rolled_back_batches(source.name)
        )

    def _get_rolled_back_batches(self, name: str) -> tuple[int, ...]:
        """The batches of landed files that a source's table no longer holds, as the runs that ingested them were taken back."""
        opened = self.log(name)
        last = opened.last if opened else None
        return last.record.rolled_back_batches if last and last.record else ()

    def find_unread_folders(self) -> list[str]:
        """What lies in the landing zone and no source reads: most often a folder whose name was mistyped."""
        read = {d.landing.split("/")[0] for d in self.graph.declarations.values() if isinstance(d, Source)}
        return [
            name for name in location.list_names(self.root / "landing") if name not in read and not is_ignored(name)
        ]

    def written_columns(self, name: str) -> dict[str, str]:
        """The columns of the table as written: those declared, and what the platform adds."""
        declared = self.graph.declarations[name]
        columns = dict(declared.columns)
        if isinstance(declared, Source):
            return {**columns, **declared.platform_columns}
        if self.get_landed_source(declared):
            columns |= dict.fromkeys(ORIGIN_COLUMNS, "bigint")
        return columns | declared.write.added_columns(columns)

    def get_landed_source(self, table: Table) -> Source | None:
        """The source whose rows a row-preserving table takes one by one; None where there is none."""
        if table.write.is_row_preserving:
            for one in table.incremental_inputs.values():
                declared = self.graph.declarations[one.table]
                if isinstance(declared, Source):
                    return declared
        return None

    def can_reread_all_rows(self, table: Table) -> bool:
        """Whether a run may go through all landed rows of a table again, and not just the new ones."""
        source = self.get_landed_source(table)
        return source is not None and (table.write.reads_all_rows or source.on_redelivery == "replace")

    def get_filter_columns(self, name: str) -> tuple[str, ...]:
        """The columns that map this table's rows to partitions of others, which read it by them."""
        return tuple(dict.fromkeys(one.date_column for one in self._find_incremental_uses(name) if one.date_column))

    def has_incremental_readers(self, name: str) -> bool:
        """Whether any table is driven by this one."""
        return bool(self._find_incremental_uses(name))

    def _find_incremental_uses(self, name: str) -> list[Input]:
        """The inputs of other tables that this table drives."""
        tables = (t for t in self.graph.declarations.values() if isinstance(t, Table))
        return [one for t in tables for one in t.incremental_inputs.values() if one.table == name]
