"""Plan the rollback of a run: the version to restore for each table, and the effects on the next run. Needs no Spark.

A run is on record in its commits. Where no other run has written a table since, the version before the run is
restored. The restoring commit is a new version of a new generation, and its record names the run that is rolled back.
By the record of their source's table, the landed files of the run's batches count as new again
(`lakehouse.deltalog.commit_record`). Evidence in the quarantine stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lakehouse.clock import now
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import effective_commits, sql, table_log
from lakehouse.deltalog.commit_record import Record, Run
from lakehouse.errors import LakehouseError, RollbackError
from lakehouse.storage import location

if TYPE_CHECKING:
    from lakehouse.catalog import Catalog
    from lakehouse.deltalog.table_log import Entry, TableLog
    from lakehouse.landing.manifest import Manifest

# Evidence is never rolled back: the quarantined rows and their outcomes.
EVIDENCE_LAYERS = ("quarantine", "outcomes")
# Operations by which a run prepares a table before its own commit. They carry no record.
_ADDITIONS = ("ADD COLUMNS", "ADD COLUMN")  # by Spark, by delta-rs
_PREPARATION_OPERATIONS = (*_ADDITIONS, "SET TBLPROPERTIES")
_MAX_SHOWN = 5


@dataclass(frozen=True)
class TableRollback:
    """Rollback of one table.

    Attributes:
        run: The run that is rolled back.
        current_version: The table's newest version.
        target_version: The version to restore. None where the run created the table: then it is emptied.
        last_record: The table's newest record.
        target_record: The record of the restored rows. None where there is none.
        restored_version: The version to write into the new record (see `Record.restored_version`).
        batch: The batch number of the restoring commit.
        rolled_back_batches: All batches of landed files that no longer count.
    """

    table: str
    run: str
    current_version: int
    target_version: int | None
    last_record: Record
    target_record: Record | None
    restored_version: int
    current_rows: int
    target_rows: int
    batch: int
    rolled_back_batches: tuple[int, ...] = ()


@dataclass(frozen=True)
class RollbackPlan:
    """Plan to roll back a run.

    Attributes:
        tables: In the order of their rollback. Readers come first, because no table may hold rows that its inputs lost.
        completed_tables: Tables that an earlier attempt rolled back.
        files_to_ingest: Landed files that the next run ingests again.
        missing_files: Landed files that the landing zone no longer has. The next run cannot ingest their rows again.
        tables_to_rebuild: The tables that the next run rebuilds, with the reason.
    """

    run: str
    tables: tuple[TableRollback, ...]
    completed_tables: tuple[str, ...] = ()
    files_to_ingest: tuple[str, ...] = ()
    missing_files: tuple[str, ...] = ()
    tables_to_rebuild: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _TableState:
    """A table with its commits, newest first, and those of the commits that its rows come from."""

    name: str
    log: TableLog
    entries: Sequence[Entry]
    effective_entries: Sequence[Entry]

    def list_commits_of(self, run: str) -> list[Entry]:
        return [entry for entry in self.effective_entries if entry.record and entry.record.run == run]

    def has_record_of(self, run: str) -> bool:
        return any(entry.record and entry.record.run == run for entry in self.entries)


def plan_rollback(catalog: Catalog, run: str) -> RollbackPlan:
    """Plan the rollback of a run, without changing anything.

    Raises:
        RollbackError: The run does not exist or cannot be rolled back. Every reason is listed.
        LedgerError: A log is damaged.
    """
    states = _read_tables(catalog)
    _check_run(states, run)
    written = [state for state in states if state.list_commits_of(run)]
    if problems := [problem for state in written for problem in _find_conflicts(state, run)]:
        raise _build_error(run, problems)
    rollbacks, problems = [], []
    for state in written:
        try:
            rollbacks.append(_plan_table(catalog, state, run))
        except LakehouseError as error:
            problems.append(str(error))
    if problems:
        raise _build_error(run, problems)
    completed = [state.name for state in states if state not in written and state.has_record_of(run)]
    new_files, missing_files = _classify_files(catalog, rollbacks)
    rebuilds = _find_rebuilds(
        catalog, {state.name: state for state in states}, {back.table: back for back in rollbacks}
    )
    return RollbackPlan(run, tuple(rollbacks), tuple(completed), new_files, missing_files, rebuilds)


def _build_error(run: str, problems: Sequence[str]) -> RollbackError:
    lines = "".join(f"\n  - {problem}" for problem in dict.fromkeys(problems))
    return RollbackError(f"Run {run} cannot be rolled back. Nothing was changed:{lines}")


def _read_tables(catalog: Catalog) -> list[_TableState]:
    """Read the log of every table with rows, readers before their inputs.

    Tables that no graph declares, such as scores, come first.
    """
    paths = sql.find_tables(catalog.root / "lake")
    declared = [name for name in reversed(list(catalog.graph.declarations)) if name in paths]
    others = [name for name in paths if name not in declared and name.split(".")[0] not in EVIDENCE_LAYERS]

    def read(name: str) -> _TableState | None:
        log = table_log.open_log(paths[name])
        entries = log.read_entries() if log else []
        return _TableState(name, log, entries, effective_commits.filter_effective(entries)) if log else None

    with ThreadPoolExecutor() as pool:
        return [state for state in pool.map(read, [*others, *declared]) if state]


def _check_run(states: Sequence[_TableState], run: str) -> None:
    """Check that the run has commits and is not itself a rollback.

    Raises:
        RollbackError: No table has a commit of the run, or the run is a rollback.
    """
    records = [entry.record for state in states for entry in state.entries if entry.record]
    run_records = [record for record in records if record.run == run]
    if any(record.rolled_back_run for record in run_records):
        raise RollbackError(
            f"Run {run} is the rollback of run {run_records[0].rolled_back_run}, and a rollback cannot be rolled back. "
            "Run `lakehouse run` to bring the tables up to date."
        )
    if not run_records:
        newest = {
            entry.record.run: entry.record.committed_at
            for state in states
            for entry in state.effective_entries
            if entry.record
        }
        names = sorted(newest, key=lambda name: (newest[name], name), reverse=True)[:_MAX_SHOWN]
        hint = f"The newest runs are {', '.join(names)}" if names else "No run can be rolled back"
        raise RollbackError(
            f"No table has a commit of run {run!r}. {hint}; `lakehouse history TABLE` lists the runs of a table."
        )


def _find_conflicts(state: _TableState, run: str) -> Iterator[str]:
    """Yield the changes that others made to the table since the run. A rollback would lose them."""
    first = state.list_commits_of(run)[-1]
    records = [entry.record for entry in state.effective_entries if entry.version > first.version]
    if later := list(dict.fromkeys(record.run for record in records if record and record.run != run)):
        yield (
            f"{state.name} was written by {', '.join(later)} since. "
            f"Roll back the later runs first, newest first: `lakehouse rollback {later[0]}`."
        )
    for entry in reversed(state.entries):
        if (
            entry.version > first.version
            and entry.record is None
            and entry.operation not in table_log.MAINTENANCE_OPERATIONS
        ):
            yield f"{state.name} was changed by another writer since: version {entry.version}, {entry.operation}"


def _plan_table(catalog: Catalog, state: _TableState, run: str) -> TableRollback:
    """Plan the rollback of one table.

    Raises:
        RollbackError: The version before the run is no longer available.
    """
    first, last_record = state.list_commits_of(run)[-1], next(entry.record for entry in state.entries if entry.record)
    assert last_record is not None
    target = _find_version_before(state, first)
    before = next((e for e in state.entries if target is not None and e.version <= target and e.record), None)
    target_record = before.record if before else None
    restored = before.version if before else -1 if target is None else target
    between = [e for e in state.entries if before and target and before.version < e.version <= target]
    if target is not None and any(e.operation not in table_log.MAINTENANCE_OPERATIONS for e in between):
        restored = target  # Another writer changed rows after the recorded version. Its readers have not read those.
    batches, batch = _find_rolled_back_batches(catalog, state.name, last_record, target_record)
    return TableRollback(
        table=state.name,
        run=run,
        current_version=state.log.version,
        target_version=target,
        last_record=last_record,
        target_record=target_record,
        restored_version=restored,
        current_rows=state.log.count_rows(),
        target_rows=0 if target is None else _count_rows(state, target),
        batch=batch,
        rolled_back_batches=batches,
    )


def _find_version_before(state: _TableState, first: Entry) -> int | None:
    """Return the version before the run's first commit and before the columns that the run added for that commit.

    Returns:
        The version; None where there is none.

    Raises:
        RollbackError: The log no longer has it.
    """
    older = [entry for entry in state.entries if entry.version < first.version]
    if not older and first.version > 0:
        raise RollbackError(
            f"{state.name}: the log no longer has the versions before {first.version}, so the table cannot be restored"
        )
    version: int | None = first.version - 1 if older else None
    for entry in older:
        if entry.record is not None or entry.operation not in _PREPARATION_OPERATIONS:
            break
        version = entry.version - 1 if entry.operation in _ADDITIONS else version
    return version


def _count_rows(state: _TableState, version: int) -> int:
    """Count the rows of a version after checking that all of its files exist.

    Raises:
        RollbackError: Some files are missing.
    """
    log = table_log.open_log(state.log.path, version)
    assert log is not None
    if missing := log.list_missing_files():
        raise RollbackError(
            f"{state.name}: {len(missing)} of the {log.count_files()} files of version {version} are gone (VACUUM)"
        )
    return log.count_rows()


def _find_rolled_back_batches(
    catalog: Catalog, name: str, last_record: Record, target_record: Record | None
) -> tuple[tuple[int, ...], int]:
    """Return the batches of landed files that no longer count after the rollback, and the next batch's number.

    All batches after the target record's are among them: also a batch that a later run pinned and did not ingest, the
    batches of runs that were rolled back before, and those of the rollbacks, which have no manifest.
    """
    stems = (file.removesuffix(".json") for file in location.list_names(catalog.root.joinpath("manifests", name)))
    batches = [int(stem) for stem in stems if stem.isdigit()]
    batch = max([last_record.batch, *batches]) + 1
    if not batches and not isinstance(catalog.graph.declarations.get(name), Source):
        return (), batch
    target_batch, earlier = (target_record.batch, target_record.rolled_back_batches) if target_record else (0, ())
    return tuple(sorted({*earlier, *range(target_batch + 1, batch + 1)})), batch


# --- effects on the next run ----------------------------------------------------------------------------------------


def _classify_files(catalog: Catalog, rollbacks: Sequence[TableRollback]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return, of the files in the rolled back batches, those that are new again and those that are missing."""
    new: list[str] = []
    missing: list[str] = []
    for rollback in rollbacks:
        source = catalog.graph.declarations.get(rollback.table)
        if not isinstance(source, Source):
            continue
        landing = catalog.get_landing_zone(source)
        remaining = landing.read_history_without(rollback.rolled_back_batches)
        ingested = {(file.path, file.identity) for manifest in remaining for file in manifest.files}
        rolled_back = [
            manifest
            for manifest in landing.read_manifests()
            if manifest.batch in rollback.rolled_back_batches
            and manifest.batch not in rollback.last_record.rolled_back_batches
        ]
        pending = {file.path for file in landing.find_new_files(remaining, landing.fingerprint)}
        new += [path for path in _list_paths(rolled_back) if path in pending]
        files = [file for manifest in rolled_back for file in manifest.files]
        missing += sorted({file.path for file in files if (file.path, file.identity) not in ingested} - pending)
    return tuple(new), tuple(missing)


def _list_paths(manifests: Sequence[Manifest]) -> list[str]:
    files = {file.path for manifest in manifests for file in manifest.files}
    return sorted(files | {file.path for manifest in manifests for file in manifest.rejected_files})


def _find_rebuilds(
    catalog: Catalog, states: Mapping[str, _TableState], rollbacks: Mapping[str, TableRollback]
) -> dict[str, str]:
    """Return the tables that the next run rebuilds, with the reason.

    After the rollback the planner decides the same.
    """
    reasons: dict[str, str] = {}
    for name, table in catalog.graph.declarations.items():
        record = _get_record_after(states, rollbacks, name)
        if not isinstance(table, Table) or record is None:
            continue
        for input_ in table.inputs.values():
            before = record.inputs.get(input_.table)
            after = _get_record_after(states, rollbacks, input_.table)
            if before is None or after is None:
                reasons.setdefault(name, "it has no rows after the rollback")
                continue
            entries = _get_entries_after(states, rollbacks, input_.table)
            current = effective_commits.resolve_version(entries, before)
            can_rebuild = input_.role == "incremental" or input_.on_change == "rebuild"
            differs = input_.table in rollbacks and current.generation != after.generation
            if differs and (can_rebuild or effective_commits.is_rolled_back(entries, current.version)):
                reasons.setdefault(
                    name, f"it read rows of {input_.table} that are removed{_describe_loss(catalog, table)}"
                )
            elif input_.table in reasons and can_rebuild:
                reasons.setdefault(name, f"{input_.table} is rebuilt{_describe_loss(catalog, table)}")
    return reasons


def _describe_loss(catalog: Catalog, table: Table) -> str:
    if not table.write.is_append_only or catalog.get_landed_source(table):
        return ""
    return "; appended rows that its inputs no longer have are lost"


def _get_record_after(
    states: Mapping[str, _TableState], rollbacks: Mapping[str, TableRollback], name: str
) -> Record | None:
    """Return a table's newest record after the rollback."""
    if name in rollbacks:
        return build_record(rollbacks[name], Run("", ""))
    return next((entry.record for entry in states[name].entries if entry.record), None) if name in states else None


def _get_entries_after(
    states: Mapping[str, _TableState], rollbacks: Mapping[str, TableRollback], name: str
) -> list[Entry]:
    """Return a table's commits after the rollback, newest first."""
    entries = list(states[name].entries)
    if name not in rollbacks:
        return entries
    rollback = rollbacks[name]
    record = build_record(rollback, Run("", ""))
    return [table_log.Entry(rollback.current_version + 1, datetime.now(UTC), "RESTORE", {}, record), *entries]


def build_record(rollback: TableRollback, run: Run) -> Record:
    """Build the record of the commit by which a run rolls a table back. Its inputs are those of the restored rows."""
    base = rollback.target_record or replace(rollback.last_record, inputs={})
    return Record(
        run=run.id,
        batch=rollback.batch,
        generation=rollback.last_record.generation + 1,
        inputs=base.inputs,
        rows={"restored": rollback.target_rows},
        revision=run.revision,
        fingerprint=base.fingerprint,
        committed_at=now(),
        rolled_back_run=rollback.run,
        restored_version=rollback.restored_version,
        rolled_back_batches=rollback.rolled_back_batches,
        quarantined_batch=rollback.last_record.quarantined_batch,
    )
