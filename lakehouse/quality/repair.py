"""Rebuild missing manifests from the rows of their bronze table and from the landing zone. Needs no Spark.

Each row in bronze has its file (`_source_file`, `_file_id`) and its batch (`_batch_id`, `_ingested_at`). The identity
of a file is known only while the landing zone has the file as the batch read it: with as many records as rows in
bronze, and not modified since. A file that changed or vanished gets no identity, so that a later one is a new delivery.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lakehouse.causes import describe_known_cause
from lakehouse.clock import now
from lakehouse.definitions.sources import Source
from lakehouse.deltalog import sql
from lakehouse.errors import MissingStateError
from lakehouse.landing.manifest import LandedFile, Manifest
from lakehouse.landing.reader.counting import count_records
from lakehouse.storage import location
from lakehouse.storage.location import FileInfo

if TYPE_CHECKING:
    from lakehouse.catalog import Catalog
    from lakehouse.deltalog.table_log import TableLog
    from lakehouse.landing.zone import LandingZone

# A manifest has its time to the second.
_CLOCK_SECONDS = 1.0


@dataclass(frozen=True)
class ManifestRepair:
    """Repair of one manifest.

    Attributes:
        path: The path of the manifest.
        manifest: The manifest to write.
        notes: Files without identity, and the effect on the next run, in words.
        problems: Files that may or may not be those that the batch read. Then no manifest is written.
    """

    table: str
    path: str
    manifest: Manifest
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepairPlan:
    """Plan to repair a lake.

    Attributes:
        manifests: The missing manifests.
        quarantines: The missing quarantines by table, which cannot be rebuilt without their table.
    """

    manifests: tuple[ManifestRepair, ...] = ()
    quarantines: dict[str, str] | None = None

    @property
    def writable(self) -> tuple[ManifestRepair, ...]:
        """The repairs that can be done."""
        return tuple(repair for repair in self.manifests if not repair.problems)

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is missing after the repair."""
        return not self.quarantines and len(self.writable) == len(self.manifests)


@dataclass(frozen=True)
class _Delivery:
    """The rows of one landed file in bronze."""

    batch: int
    file_id: int
    path: str
    ingested_at: float
    rows: int


def plan_repair(catalog: Catalog) -> RepairPlan:
    """Find the missing manifests and quarantines, and rebuild the manifests in memory.

    Raises:
        LedgerError: A log is damaged.
    """
    manifests, quarantines = list[ManifestRepair](), dict[str, str]()
    for name, declared in catalog.graph.declarations.items():
        if isinstance(declared, Source):
            manifests += rebuild_manifests(catalog, declared, catalog.get_landing_zone(declared).read_history())
        elif (log := catalog.read_log(name)) and catalog.is_quarantine_missing(name, log):
            quarantines[name] = str(catalog.get_quarantine_path(name))
    return RepairPlan(tuple(manifests), quarantines)


def write_manifests(catalog: Catalog, plan: RepairPlan) -> None:
    """Write the manifests that can be rebuilt."""
    for repair in plan.writable:
        source = catalog.graph.declarations[repair.table]
        assert isinstance(source, Source)
        catalog.get_landing_zone(source).create_manifest(repair.manifest)


def complete_history(catalog: Catalog, source: Source, history: list[Manifest]) -> list[Manifest]:
    """Return the manifests with those that are missing, so that a full refresh can check their files.

    Raises:
        MissingStateError: A file may not be the one that a batch without manifest read.
    """
    repairs = rebuild_manifests(catalog, source, history)
    if problems := [problem for repair in repairs for problem in repair.problems]:
        raise MissingStateError(
            f"{source.name}: a full refresh may lose rows of batches without manifest: {'; '.join(problems)}. "
            "Restore these files as delivered, with their times, or restore the manifests from a backup.",
            source.name,
            [repair.path for repair in repairs],
        )
    return sorted([*history, *(repair.manifest for repair in repairs)], key=lambda manifest: manifest.batch)


def rebuild_manifests(catalog: Catalog, source: Source, history: Sequence[Manifest]) -> list[ManifestRepair]:
    """Rebuild the missing manifests of a source in memory."""
    log = catalog.read_log(source.name)
    missing = catalog.find_missing_batches(history, log)
    if not missing or log is None:
        return []
    landing, deliveries = catalog.get_landing_zone(source), _read_deliveries(log)
    newest = {file.path: file.file_id for manifest in history for file in manifest.files}
    newest |= {delivery.path: max(delivery.file_id, newest.get(delivery.path, 0)) for delivery in deliveries}
    return [_rebuild_manifest(landing, batch, deliveries, newest) for batch in missing]


def _read_deliveries(log: TableLog) -> list[_Delivery]:
    """Read the landed files of the rows in bronze, in the order of their deliveries.

    Raises:
        DamagedFileError: A page of a file is damaged.
    """
    query = """
        SELECT _batch_id, _file_id, _source_file, epoch_us(max(_ingested_at)) / 1e6, count(*)
        FROM bronze GROUP BY ALL ORDER BY _file_id
    """
    with sql.connect({"bronze": log.open_dataset()}) as connection:
        return [_Delivery(*row) for row in connection.execute(query).fetchall()]


def _rebuild_manifest(
    landing: LandingZone, batch: int, deliveries: Iterable[_Delivery], newest: dict[str, int]
) -> ManifestRepair:
    own = [delivery for delivery in deliveries if delivery.batch == batch]
    states = location.stat_files(landing.root, [delivery.path for delivery in own])
    files, notes, problems = list[LandedFile](), list[str](), list[str]()
    for delivery in own:
        unknown = LandedFile(delivery.path, 0, 0, "", delivery.file_id)
        state = states[delivery.path]
        if newest[delivery.path] > delivery.file_id:  # A later delivery replaced the file.
            files.append(unknown)
        elif isinstance(state, OSError) and describe_known_cause(state):
            problems.append(f"landing/{delivery.path} cannot be read ({state.strerror})")
        elif isinstance(state, OSError):
            files.append(unknown)
            notes.append(f"landing/{delivery.path} is gone. If it lands again, it is a new delivery")
        elif _count_or_zero(landing, state) != delivery.rows:
            files.append(unknown)
            notes.append(f"landing/{delivery.path} has other records than batch {batch} read. It is a new delivery")
        elif state.modified_ns / 1e9 > delivery.ingested_at + _CLOCK_SECONDS:
            problems.append(f"landing/{delivery.path} was modified after batch {batch} had read it")
        else:
            files.append(_identify(landing, delivery, state))
    created_at = datetime.fromtimestamp(own[0].ingested_at, UTC).isoformat(timespec="seconds") if own else now()
    # A full batch replaced the rows of all earlier ones.
    is_full = batch > 1 and bool(own) and min(delivery.batch for delivery in deliveries) == batch
    manifest = Manifest(landing.source.name, batch, created_at, "", tuple(files), is_full=is_full)
    path = str(landing.get_manifest_path(batch))
    return ManifestRepair(landing.source.name, path, manifest, tuple(notes), tuple(problems))


def _identify(landing: LandingZone, delivery: _Delivery, state: FileInfo) -> LandedFile:
    identity = state.identity or location.compute_identity(landing.root / delivery.path)
    return LandedFile(delivery.path, state.size, state.modified_ns, identity, delivery.file_id)


def _count_or_zero(landing: LandingZone, file: FileInfo) -> int:
    """Return the number of records in a landed file; 0 where it cannot be read."""
    try:
        return count_records(
            landing.source, LandedFile(file.path, file.size, file.modified_ns), landing.root, landing.unpack_limits
        )
    except Exception:  # Whatever its reader raises, the file is not the one that a batch read.
        return 0
