"""The catalog: location, columns and readers of each table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lakehouse.definitions.graph import Graph
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source
from lakehouse.definitions.tables import Input, Table
from lakehouse.deltalog.effective_commits import filter_effective
from lakehouse.deltalog.table_log import TableLog, open_log, read_last_record
from lakehouse.errors import MissingStateError
from lakehouse.landing.manifest import Manifest
from lakehouse.landing.paths import is_ignored
from lakehouse.landing.reader.compression import DEFAULT_LIMITS, UnpackLimits
from lakehouse.landing.zone import LandingZone
from lakehouse.storage import location
from lakehouse.storage.location import Location

_MAX_SHOWN = 3


@dataclass(frozen=True)
class Suites:
    """The project's suites of expectations.

    Attributes:
        folder: The suites' files, <layer>/<table>.json.
        data_docs: The folder of the validation results and their pages.
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
class Catalog:
    """The locations of a graph's tables, landed files and manifests, and the suites of expectations.

    Attributes:
        unpack_limits: How far landed files may unpack.
        log_cache: The logs that were opened; None where nothing is cached.
    """

    graph: Graph
    root: Location
    suites: Suites | None = None
    unpack_limits: UnpackLimits = DEFAULT_LIMITS
    log_cache: dict[str, TableLog | None] | None = field(default=None, compare=False, repr=False)

    def cache_logs(self) -> Catalog:
        """Return the same lake with a cache: each log is read once, at its first use."""
        return replace(self, log_cache={})

    def read_log(self, name: str) -> TableLog | None:
        """Return a table's log; None where there is no table.

        Raises:
            LedgerError: The table's log is damaged.
        """
        if self.log_cache is None:
            return open_log(self.get_path(name))
        if name not in self.log_cache:
            self.log_cache[name] = open_log(self.get_path(name))
        return self.log_cache[name]

    def get_path(self, name: str) -> Location:
        """Return the path of a table, which need not exist."""
        return self.root.joinpath("lake", *name.split("."))

    def get_quarantine_path(self, name: str) -> Location:
        """Return the path of the table with a table's quarantined rows."""
        return self.root.joinpath("lake", "quarantine", name)

    def get_outcomes_path(self, name: str) -> Location:
        """Return the path of the table with the outcomes of a table's quarantined rows."""
        return self.root.joinpath("lake", "outcomes", name)

    def get_landing_zone(self, source: Source) -> LandingZone:
        """Return a source's landing zone. It reads the rolled back batches only when it needs them."""
        return LandingZone(
            source,
            self.root / "landing",
            self.root / "manifests",
            lambda: self._get_rolled_back_batches(source.name),
            self.unpack_limits,
        )

    def _get_rolled_back_batches(self, name: str) -> tuple[int, ...]:
        """Return the batches of landed files that a source's table lost by a rollback of their runs."""
        log = self.read_log(name)
        last = log.last if log else None
        return last.record.rolled_back_batches if last and last.record else ()

    def check_manifests(self, source: Source, history: Sequence[Manifest], log: TableLog | None) -> None:
        """Check that every committed batch of a source has its manifest. Without it, its files would count as new.

        Raises:
            MissingStateError: Manifests are missing.
        """
        missing = self.find_missing_batches(history, log)
        if missing:
            landing = self.get_landing_zone(source)
            paths = [str(landing.get_manifest_path(batch)) for batch in missing]
            raise MissingStateError(
                f"{source.name}: committed batches lack their manifests: {_join_some(paths)}. "
                "Restore these files from a backup, or rebuild them with `lakehouse repair`.",
                source.name,
                paths,
            )

    def find_missing_batches(self, history: Sequence[Manifest], log: TableLog | None) -> tuple[int, ...]:
        """Return the committed batches without a manifest since the last full batch, which replaced all earlier rows.

        A number without a manifest may be a batch of rejected files alone. The log knows, as far back as it goes.

        Args:
            history: The source's manifests, without those that were rolled back.
            log: The log of the source's table.
        """
        record = log.last.record if log and log.last else None
        if log is None or record is None:
            return ()
        full = max((m.batch for m in history if m.is_full and m.batch <= record.batch), default=0)
        known = {*(manifest.batch for manifest in history), *record.rolled_back_batches}
        gaps = [batch for batch in range(full + 1, record.batch + 1) if batch not in known]
        entries = log.read_entries() if gaps else []
        committed = {entry.record.batch for entry in filter_effective(entries) if entry.record}
        recorded = [entry.record.batch for entry in entries if entry.record]
        oldest = min(recorded) if entries and entries[-1].version > 0 else 0
        return tuple(batch for batch in gaps if batch in committed or batch < oldest)

    def check_quarantine(self, name: str, log: TableLog | None) -> None:
        """Check that the quarantine has the rejects of each committed batch of a table.

        Raises:
            MissingStateError: The quarantine is missing, or is older than the table.
        """
        if log is None or not self.is_quarantine_missing(name, log):
            return
        path = str(self.get_quarantine_path(name))
        raise MissingStateError(
            f"{name}: its quarantine {path} is missing, or lacks the rejects of batch {log.quarantined_batch}. Restore "
            f"the folder from a backup, or rebuild the table with `lakehouse run --full-refresh --select {name}+`.",
            name,
            [path],
        )

    def is_quarantine_missing(self, name: str, log: TableLog) -> bool:
        """Return whether the table's quarantine lacks rejects that the table's records count."""
        return log.quarantined_batch > self.read_quarantine_batch(name)

    def read_quarantine_batch(self, name: str) -> int:
        """Return the newest batch of which the quarantine of a table has a commit; 0 where there is none."""
        record = read_last_record(self.get_quarantine_path(name))
        return record.batch if record else 0

    def find_unread_folders(self) -> list[str]:
        """Return the names in the landing zone that no source reads. Most are typing mistakes in a folder's name."""
        folders = {d.landing.split("/")[0] for d in self.graph.declarations.values() if isinstance(d, Source)}
        return [
            name for name in location.list_names(self.root / "landing") if name not in folders and not is_ignored(name)
        ]

    def get_written_columns(self, name: str) -> dict[str, str]:
        """Return the types of the table's written columns: the declared ones and those that the platform adds."""
        declared = self.graph.declarations[name]
        columns = dict(declared.columns)
        if isinstance(declared, Source):
            return {**columns, **declared.platform_columns}
        if self.get_landed_source(declared):
            columns |= dict.fromkeys(ORIGIN_COLUMNS, "bigint")
        return columns | declared.write.get_added_columns(columns)

    def get_landed_source(self, table: Table) -> Source | None:
        """Return the source with the rows that a row-preserving table takes one by one; None where there is none."""
        if table.write.is_row_preserving:
            for input_ in table.incremental_inputs.values():
                declared = self.graph.declarations[input_.table]
                if isinstance(declared, Source):
                    return declared
        return None

    def can_reread_all_rows(self, table: Table) -> bool:
        """Return whether a run may read all landed rows of a table again, and not only the new ones."""
        source = self.get_landed_source(table)
        return source is not None and (table.write.reads_all_rows or source.on_redelivery == "replace")

    def get_filter_columns(self, name: str) -> tuple[str, ...]:
        """Return the columns that map this table's rows to partitions of its readers."""
        return tuple(dict.fromkeys(use.date_column for use in self._find_incremental_uses(name) if use.date_column))

    def has_incremental_readers(self, name: str) -> bool:
        """Return whether any table has this one as an incremental input."""
        return bool(self._find_incremental_uses(name))

    def _find_incremental_uses(self, name: str) -> list[Input]:
        """Return the inputs of other tables that read this table incrementally."""
        tables = (t for t in self.graph.declarations.values() if isinstance(t, Table))
        return [input_ for t in tables for input_ in t.incremental_inputs.values() if input_.table == name]


def _join_some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MAX_SHOWN} more" if len(paths) > _MAX_SHOWN else ""
    return ", ".join(paths[:_MAX_SHOWN]) + more
