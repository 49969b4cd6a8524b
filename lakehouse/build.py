"""Carrying out a step: each way of writing, one commit."""

from __future__ import annotations

from dataclasses import replace

from lakehouse import delta, frames, ingest, keyed, quality
from lakehouse.columns import UNREADABLE
from lakehouse.declare import Rebuild, Replace, Source, Table
from lakehouse.definition import definition_of
from lakehouse.errors import LandingError
from lakehouse.landing import Landing, Manifest
from lakehouse.work import Outcome, Work


def carry_out(work: Work) -> Outcome:
    """Do what the step says.

    Raises:
        LakehouseError: the batch was refused; nothing of it is in the table.
    """
    declared = work.lake.graph.declared[work.step.table]
    if not work.step.full_refresh:
        delta.prepare(work.spark, work.target(declared), work.step.added_columns)
    if isinstance(declared, Source):
        return _ingest(work, declared)
    if isinstance(declared.write, Replace | Rebuild):
        return _whole(work, declared)
    return keyed.build(work, declared)


def _ingest(work: Work, source: Source) -> Outcome:
    """One batch of landed files, by its manifest."""
    landing = work.lake.landing(source)
    history, manifest = landing.history(), work.step.manifest
    known = len(manifest.rejected) if manifest else 0
    if manifest is None:
        manifest = _pinned(work, source, landing, history)
    manifest = landing.verified(manifest)
    rejected = manifest.rejected[known:]
    if not manifest.files:
        return Outcome({}, rejected_files=rejected, committed=False)
    rows = ingest.read_batch(work.spark, source, manifest, landing.root)
    commit = work.commit(source, {}, files=len(manifest.files))
    target = work.target(source, source.stats or ("_file_id",))
    paths = {one.path for one in manifest.files}
    again = paths & {one.path for m in history for one in m.files if m.batch < manifest.batch}
    if manifest.full:
        delta.overwrite(rows, target, commit)
    elif source.relanded == "replace" and again:
        # The predicate covers the earlier deliveries of these files and the batch itself, and no other row.
        delta.replace(rows, target, commit, f"{frames.one_of('_source_file', again)} OR _batch_id = {manifest.batch}")
    else:
        delta.append(rows, target, commit)
    return Outcome({"written": delta.rows_written(target)}, rejected_files=rejected)


def _pinned(work: Work, source: Source, landing: Landing, history: list[Manifest]) -> Manifest:
    """The batch's manifest, written before any of its files is read.

    Raises:
        LandingError: a full refresh would lose rows, their files being gone from the landing zone.
    """
    full = work.step.full_refresh
    if full and (problems := landing.missing(history)):
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise LandingError(
            f"{source.name}: a full refresh would lose rows, so nothing was done: {'; '.join(problems[:5])}{more}. "
            "Put the files back and run again."
        )
    return landing.write(work.step.batch, definition_of(source), history, work.step.files, full)


def _whole(work: Work, table: Table) -> Outcome:
    """Rebuild, and replace by partition: the function's output takes the place of what was there."""
    step, write = work.step, table.write
    spans = frames.spans(step.partitions, write) if isinstance(write, Replace) and step.partitions is not None else None
    inputs = {}
    for name, one in table.inputs.items():
        inputs[name] = work.snapshot(one.table)
        if spans is not None and one.by is not None:
            inputs[name] = inputs[name].where(frames.within(one.by, spans, one.context_days))
    staged = work.called(table, inputs)
    predicate = frames.within(write.partition, spans) if isinstance(write, Replace) and spans is not None else None
    if predicate:
        staged = staged.where(predicate)
    counts: dict[str, int] = {}
    warned = {}
    if table.rules or UNREADABLE in staged.columns:
        staged = staged.persist()
        counted = quality.audit(replace(table, key=()), staged, doubled=False)
        quality.refuse_failures(table, counted)
        if counted.rejected:
            work.quarantine(table, quality.quarantined(table, staged, None))
        counts, warned = {"quarantined": counted.rejected}, quality.warnings(table, counted)
    rows = staged.where(~quality.rejecting(table, staged)) if counts.get("quarantined") else staged
    rows, target, commit = rows.select(*table.columns), work.target(table), work.commit(table, counts)
    if predicate:
        delta.replace(rows, target, commit, predicate)
    else:
        delta.overwrite(rows, target, commit)
    staged.unpersist()
    partitions = None if step.partitions is None else len(step.partitions)
    return Outcome({"written": delta.rows_written(target), **counts}, partitions, warnings=warned)
