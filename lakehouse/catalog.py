"""Where each table lies, which columns it has, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from lakehouse.definitions.graph import Graph
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import Input, Table
from lakehouse.deltalog.table_log import TableLog, open_log
from lakehouse.landing.zone import Landing, left_alone
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

    def file(self, table: str) -> Path:
        """Return the path of a table's suite, which need not exist."""
        return self.folder.joinpath(*table.split(".")).with_suffix(".json")

    def has_suite(self, table: str) -> bool:
        """Return whether the table has a suite."""
        return self.file(table).is_file()


@dataclass(frozen=True)
class Lake:
    """Where a graph's tables, landed files and manifests are, and the suites of expectations.

    ``logs`` keeps those that were opened, in a lake that stands still.
    """

    graph: Graph
    root: Location
    suites: Suites | None = None
    logs: dict[str, TableLog | None] | None = field(default=None, compare=False, repr=False)

    def still(self) -> Lake:
        """The lake as it stands: each log is read once, when it is asked for first."""
        return replace(self, logs={})

    def log(self, name: str) -> TableLog | None:
        """A table's log; None where there is no table.

        Raises:
            LedgerError: there is a table, but its log is damaged.
        """
        if self.logs is None:
            return open_log(self.path(name))
        if name not in self.logs:
            self.logs[name] = open_log(self.path(name))
        return self.logs[name]

    def path(self, name: str) -> Location:
        return self.root.joinpath("lake", *name.split("."))

    def quarantine(self, name: str) -> Location:
        return self.root.joinpath("lake", "quarantine", name)

    def outcomes(self, name: str) -> Location:
        """What became of the rejects of a table."""
        return self.root.joinpath("lake", "outcomes", name)

    def landing(self, source: Source) -> Landing:
        return Landing(source, self.root / "landing", self.root / "manifests", lambda: self._undone(source.name))

    def _undone(self, name: str) -> tuple[int, ...]:
        """The batches of landed files that a source's table no longer holds, as the runs that ingested them were taken back."""
        opened = self.log(name)
        last = opened.last if opened else None
        return last.record.undone if last and last.record else ()

    def strays(self) -> list[str]:
        """What lies in the landing zone and no source reads: most often a folder whose name was mistyped."""
        read = {d.landing.split("/")[0] for d in self.graph.declared.values() if isinstance(d, Source)}
        return [name for name in location.names(self.root / "landing") if name not in read and not left_alone(name)]

    def written_columns(self, name: str) -> dict[str, str]:
        """The columns of the table as written: those declared, and what the platform adds."""
        declared = self.graph.declared[name]
        columns = dict(declared.columns)
        if isinstance(declared, Source):
            return {**columns, **declared.platform_columns}
        if self.landed_driver(declared):
            columns |= dict.fromkeys(ORIGIN_COLUMNS, "bigint")
        return columns | declared.write.added_columns(columns)

    def landed_driver(self, table: Table) -> Source | None:
        """The source whose rows a row-preserving table takes one by one; None where there is none."""
        if table.write.is_row_preserving:
            for one in table.drivers.values():
                declared = self.graph.declared[one.table]
                if isinstance(declared, Source):
                    return declared
        return None

    def goes_through_all(self, table: Table) -> bool:
        """Whether a run may go through all landed rows of a table again, and not just the new ones."""
        source = self.landed_driver(table)
        return source is not None and (table.write.reads_all_rows or source.relanded == "replace")

    def filtered_by(self, name: str) -> tuple[str, ...]:
        """The columns that map this table's rows to partitions of others, which read it by them."""
        return tuple(dict.fromkeys(one.by for one in self._driven_by(name) if one.by))

    def read_changes_of(self, name: str) -> bool:
        """Whether any table is driven by this one."""
        return bool(self._driven_by(name))

    def _driven_by(self, name: str) -> list[Input]:
        """The inputs of other tables that this table drives."""
        tables = (t for t in self.graph.declared.values() if isinstance(t, Table))
        return [one for t in tables for one in t.drivers.values() if one.table == name]
