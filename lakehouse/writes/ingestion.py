"""Ingestion of a batch of landed files: pin, stage, record the verdicts, commit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from lakehouse.definitions.sources import Source
from lakehouse.engine import open_file_writer
from lakehouse.engine.base import Commit
from lakehouse.landing import schema_drift
from lakehouse.landing.manifest import LandedFile, Manifest, RejectedFile
from lakehouse.landing.reader import isolation
from lakehouse.landing.reader.column_types import to_arrow_type
from lakehouse.landing.reader.conformance import BatchStamp, list_target_schema
from lakehouse.landing.reader.staging import StagedBatch, Verdict
from lakehouse.landing.reader.task import StagingTask
from lakehouse.landing.zone import LandingZone
from lakehouse.plan.steps import Ingest
from lakehouse.quality.repair import complete_history
from lakehouse.storage.location import Location
from lakehouse.writes.outcome import Outcome
from lakehouse.writes.table_writer import TableWriter


def ingest(writer: TableWriter, source: Source, step: Ingest) -> Outcome:
    """Ingest one batch of landed files.

    Raises:
        LandingError: A full refresh would lose rows.
    """
    landing = writer.catalog.get_landing_zone(source)
    rolled_back, manifest = landing.get_rolled_back_batches(), step.manifest
    history = landing.read_history_without(rolled_back)
    if step.is_full_refresh and manifest is None:
        history = complete_history(writer.catalog, source, history)
    reported_count = len(manifest.rejected_files) if manifest else 0
    if manifest is None:
        manifest = _pin_manifest(step, source, landing, history)
    writer.run.lease.check()
    manifest = landing.verify_batch(manifest, history)
    with _open_staging_folder(writer.catalog.root, source) as folder:
        with landing.mark_staging(manifest) as has_ended:
            if has_ended:
                fatal_files = isolation.find_fatal_files(_make_task(writer, manifest, landing))
                rejections = [_reject(landing, manifest, file, isolation.REASON) for file in fatal_files]
                manifest = landing.reject_files(manifest, history, rejections)
            redelivered_paths = _find_redelivered(source, manifest, history)
            # A replacement copies the rows of the staged files.
            table = None if redelivered_paths else writer.path
            staged = writer.engine.stage(_make_task(writer, manifest, landing), folder, table)
        manifest = landing.reject_files(manifest, history, _list_rejected(landing, manifest, staged.verdicts))
        rejected = manifest.rejected_files[reported_count:]
        if not manifest.files:
            return Outcome({}, rejected_files=rejected, is_committed=False)
        accepted = [verdict for verdict in staged.verdicts if verdict.reason is None]
        counts = {"written": sum(verdict.row_count for verdict in accepted)}
        contract = schema_drift.summarize_drift(source.file_source, (verdict.columns for verdict in accepted))
        commit = writer.make_commit(source, counts, len(manifest.files), contract, sorted(rolled_back))
        _write(writer, source, manifest, redelivered_paths, staged, commit)
    return Outcome(counts, rejected_files=rejected, contract=contract)


def _pin_manifest(step: Ingest, source: Source, landing: LandingZone, history: list[Manifest]) -> Manifest:
    """Write the batch's manifest before any of its files is read.

    Raises:
        LandingError: A full refresh would lose rows.
    """
    if step.is_full_refresh:
        landing.check_refresh(history)
    return landing.pin_batch(step.batch, landing.fingerprint, history, step.files, step.is_full_refresh)


@contextmanager
def _open_staging_folder(root: Location, source: Source) -> Iterator[Path]:
    """Yield an empty folder, on the disk of a lake in a folder. A killed run's parts are removed first."""
    if not isinstance(root, Path):
        with tempfile.TemporaryDirectory(prefix="lakehouse-") as temporary:
            yield Path(temporary)
        return
    folder = root.joinpath("staging", source.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_task(writer: TableWriter, manifest: Manifest, landing: LandingZone) -> StagingTask:
    log = None if manifest.is_full else writer.catalog.read_log(landing.source.name)
    stamp = BatchStamp(manifest.batch, datetime.fromisoformat(manifest.created_at))
    existing = log.read_columns() if log else {}
    return StagingTask(landing.source, manifest.files, landing.root, stamp, existing, landing.unpack_limits)


def _reject(landing: LandingZone, manifest: Manifest, file: LandedFile, reason: str) -> RejectedFile:
    """Return the rejection of a file that was pinned under the present declaration, or under another one."""
    identity = file.identity if manifest.fingerprint == landing.fingerprint else ""
    return RejectedFile(file.path, file.size, file.modified_ns, identity, reason)


def _list_rejected(landing: LandingZone, manifest: Manifest, verdicts: Iterable[Verdict]) -> list[RejectedFile]:
    """List the files that were rejected while they were read.

    The rejection of a file that is not the pinned one has no identity: the next file at its path is a new delivery.
    """
    rejected = []
    for file, verdict in zip(manifest.files, verdicts, strict=True):
        if verdict.reason:
            rejection = _reject(landing, manifest, file, verdict.reason)
            rejected.append(replace(rejection, identity="") if verdict.has_changed else rejection)
    return rejected


def _write(
    writer: TableWriter,
    source: Source,
    manifest: Manifest,
    redelivered_paths: Collection[str],
    staged: StagedBatch,
    commit: Commit,
) -> None:
    """Commit the staged parts."""
    step = writer.step
    files = open_file_writer()
    target = writer.make_target(source, source.stats or ("_file_id",))
    schema = list_target_schema({**source.columns, **staged.added_columns, **source.platform_columns})
    can_add_columns = source.contract.new_column == "add"
    if manifest.is_full:
        files.overwrite(staged.parts, schema, target, commit)
        return
    declared = step.schema_changes.added_columns
    files.prepare(target, {name: to_arrow_type(kind) for name, kind in declared.items()})
    if replaced_paths := {file.path for file in manifest.files}.intersection(redelivered_paths):
        # The earlier deliveries of these files and the batch itself.
        values: dict[str, Collection[str | int]] = {"_source_file": replaced_paths, "_batch_id": [manifest.batch]}
        files.replace(staged.parts, schema, target, commit, values, can_add_columns=can_add_columns)
    else:
        files.append(staged.parts, schema, target, commit, can_add_columns=can_add_columns)


def _find_redelivered(source: Source, manifest: Manifest, history: Iterable[Manifest]) -> set[str]:
    """Find the paths of a batch that replace earlier deliveries."""
    if manifest.is_full or source.on_redelivery != "replace":
        return set()
    earlier = {file.path for past in history for file in past.files if past.batch < manifest.batch}
    return earlier & {file.path for file in manifest.files}
