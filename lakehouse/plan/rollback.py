"""What it would take to take back a run: which tables go back to which version, and what the next run then does. Without Spark.

A run is on record in the commits that it made. Where none but it has written a table since, the table goes back to what it was
before: a new version, of a new generation, whose record says which run it undoes. Landed files of the run's batches count as new
again, as the record of their source's table says so (`lakehouse.deltalog.commit_record`); evidence, in the quarantine, stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lakehouse.clock import now
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import sql, table_log
from lakehouse.deltalog.commit_record import Record, Run
from lakehouse.errors import LakehouseError, RollbackError
from lakehouse.storage import location

if TYPE_CHECKING:
    from lakehouse.catalog import Lake
    from lakehouse.deltalog.table_log import Entry, TableLog
    from lakehouse.landing.manifest import Manifest

# Evidence, which stays: what was set aside, and what became of it.
EVIDENCE_LAYERS = ("quarantine", "outcomes")
# What a run does to a table before its own commit, without a record.
_PREPARATION_OPERATIONS = ("ADD COLUMNS", "SET TBLPROPERTIES")
_MAX_SHOWN = 5


@dataclass(frozen=True)
class TableRollback:
    """The way of a table back to before ``run``, from version ``now`` to ``to``; without one it is emptied, as the run made it.

    ``then`` is the record of the rows that it gets back, of version ``restores``, ``last`` its newest. ``undone`` are the
    batches of landed files that count no longer, ``batch`` the number that the commit takes.
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
    """What taking back a run would do.

    ``tables`` are in the order in which they go back: readers first, so that no table ever holds rows that what it was made from
    has lost. ``done`` went back in an earlier attempt. ``files`` are landed files that the next run ingests again, ``gone`` those
    whose rows do not come back as the landing zone no longer has them, ``anew`` the tables that it makes anew, and why.
    """

    run: str
    tables: tuple[TableRollback, ...]
    completed_tables: tuple[str, ...] = ()
    files_to_ingest: tuple[str, ...] = ()
    missing_files: tuple[str, ...] = ()
    tables_to_rebuild: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _TableState:
    """A table with its commits, newest first, and those of them that its rows come from."""

    name: str
    log: TableLog
    entries: Sequence[Entry]
    effective_entries: Sequence[Entry]

    def list_commits_of(self, run: str) -> list[Entry]:
        return [one for one in self.effective_entries if one.record and one.record.run == run]


def plan_rollback(lake: Lake, run: str) -> RollbackPlan:
    """What taking back the run would do.

    Raises:
        RollbackError: there is no such run, or it cannot be taken back: every reason is listed.
        LedgerError: a log is damaged.
    """
    seen = _read_tables(lake)
    _check_run(seen, run)
    held = [one for one in seen if one.list_commits_of(run)]
    if problems := [said for one in held for said in _find_conflicts(one, run)]:
        raise _build_error(run, problems)
    backs, problems = [], []
    for one in held:
        try:
            backs.append(_plan_table(lake, one, run))
        except LakehouseError as error:
            problems.append(str(error))
    if problems:
        raise _build_error(run, problems)
    done = [one.name for one in seen if one not in held and any(e.record and e.record.run == run for e in one.entries)]
    files, gone = _classify_files(lake, backs)
    anew = _find_rebuilds(lake, {one.name: one for one in seen}, {one.table: one for one in backs})
    return RollbackPlan(run, tuple(backs), tuple(done), files, gone, anew)


def _build_error(run: str, problems: Sequence[str]) -> RollbackError:
    said = "".join(f"\n  - {one}" for one in dict.fromkeys(problems))
    return RollbackError(f"Run {run} cannot be taken back, and nothing was touched:{said}")


def _read_tables(lake: Lake) -> list[_TableState]:
    """Every table that holds rows, readers before what they read: first what no graph names, such as scores."""
    there = sql.find_tables(lake.root / "lake")
    declared = [name for name in reversed(list(lake.graph.declarations)) if name in there]
    others = [name for name in there if name not in declared and name.split(".")[0] not in EVIDENCE_LAYERS]

    def see(name: str) -> _TableState | None:
        opened = table_log.open_log(there[name])
        entries = opened.entries() if opened else []
        return _TableState(name, opened, entries, table_log.filter_effective(entries)) if opened else None

    with ThreadPoolExecutor() as pool:
        return [one for one in pool.map(see, [*others, *declared]) if one]


def _check_run(states: Sequence[_TableState], run: str) -> None:
    """
    Raises:
        RollbackError: no table has a commit of that run, or it is an undo.
    """
    records = [e.record for one in states for e in one.entries if e.record]
    ours = [record for record in records if record.run == run]
    if any(record.rolled_back_run for record in ours):
        raise RollbackError(
            f"Run {run} took back run {ours[0].rolled_back_run}, and cannot be taken back: `lakehouse run` goes on."
        )
    if not ours:
        newest = {e.record.run: e.record.committed_at for one in states for e in one.effective_entries if e.record}
        known = sorted(newest, key=lambda one: (newest[one], one), reverse=True)[:_MAX_SHOWN]
        said = f"the newest are {', '.join(known)}" if known else "there is none"
        raise RollbackError(f"No table has a commit of run {run!r}; {said} (`lakehouse history TABLE`).")


def _find_conflicts(state: _TableState, run: str) -> Iterator[str]:
    """What was done to the table since the run, and would be lost."""
    first = state.list_commits_of(run)[-1]
    since = [e for e in state.effective_entries if e.version > first.version and e.record and e.record.run != run]
    if later := list(dict.fromkeys(e.record.run for e in since if e.record)):
        yield f"{state.name} was written by {', '.join(later)} since: take back first, newest first, `lakehouse rollback {later[0]}`"
    for entry in reversed(state.entries):
        if (
            entry.version > first.version
            and entry.record is None
            and entry.operation not in table_log.MAINTENANCE_OPERATIONS
        ):
            yield f"{state.name} was changed by another writer since: version {entry.version}, {entry.operation}"


def _plan_table(lake: Lake, state: _TableState, run: str) -> TableRollback:
    """
    Raises:
        RollbackError: the version before the run can no longer be had.
    """
    first, last = state.list_commits_of(run)[-1], next(e.record for e in state.entries if e.record)
    assert last is not None
    to = _find_version_before(state, first)
    before = next((e for e in state.entries if to is not None and e.version <= to and e.record), None)
    then = before.record if before else None
    restores = before.version if before else -1 if to is None else to
    between = [e for e in state.entries if before and to and before.version < e.version <= to]
    if to is not None and any(e.operation not in table_log.MAINTENANCE_OPERATIONS for e in between):
        restores = to  # another writer changed its rows then: readers of the version before have not seen that
    undone, batch = _find_rolled_back_batches(lake, state.name, last, then)
    rows_then = 0 if to is None else _count_rows(state, to)
    rows = state.log.count_rows()
    return TableRollback(state.name, run, state.log.version, to, last, then, restores, rows, rows_then, batch, undone)


def _find_version_before(state: _TableState, first: Entry) -> int | None:
    """The version before the run's first commit, and before the columns that it added for that; None where there is none.

    Raises:
        RollbackError: it is gone from the log.
    """
    older = [e for e in state.entries if e.version < first.version]
    if not older and first.version > 0:
        raise RollbackError(f"{state.name}: its log no longer reaches back to before version {first.version}")
    to: int | None = first.version - 1 if older else None
    for entry in older:
        if entry.record is not None or entry.operation not in _PREPARATION_OPERATIONS:
            break
        to = entry.version - 1 if entry.operation == "ADD COLUMNS" else to
    return to


def _count_rows(state: _TableState, version: int) -> int:
    """The rows of a version, all of whose files are there.

    Raises:
        RollbackError: some are not.
    """
    opened = table_log.open_log(state.log.path, version)
    assert opened is not None
    if gone := opened.list_missing_files():
        raise RollbackError(
            f"{state.name}: {len(gone)} of the {opened.count_files()} files of version {version} are gone (VACUUM)"
        )
    return opened.count_rows()


def _find_rolled_back_batches(
    lake: Lake, name: str, last_record: Record, target_record: Record | None
) -> tuple[tuple[int, ...], int]:
    """The batches of landed files that count no longer once the table is as it was ``then``, and the next batch's number.

    Those are all after it: also what a later run has pinned and not ingested, and what runs before were taken back.
    """
    listed = (file.removesuffix(".json") for file in location.list_names(lake.root.joinpath("manifests", name)))
    batches = [int(number) for number in listed if number.isdigit()]
    kept, undone = (target_record.batch, target_record.rolled_back_batches) if target_record else (0, ())
    return tuple(sorted({*undone, *(n for n in batches if n > kept)})), max([last_record.batch, *batches]) + 1


# --- what the next run then does ------------------------------------------------------------------------------------


def _classify_files(lake: Lake, rollbacks: Sequence[TableRollback]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the files in the batches that go back: those that are new again, and those that are no longer there."""
    again: list[str] = []
    gone: list[str] = []
    for back in rollbacks:
        source = lake.graph.declarations.get(back.table)
        if not isinstance(source, Source):
            continue
        landing = lake.landing_zone(source)
        after = landing.read_history_without(back.rolled_back_batches)
        held = {(one.path, one.identity) for manifest in after for one in manifest.files}
        taken = [
            one
            for one in landing.read_manifests()
            if one.batch in back.rolled_back_batches and one.batch not in back.last_record.rolled_back_batches
        ]
        pending = {one.path for one in landing.find_new_files(after, compute_fingerprint(source))}
        again += [path for path in _list_paths(taken) if path in pending]
        lost = {one.path for m in taken for one in m.files if (one.path, one.identity) not in held}
        gone += sorted(lost - pending)
    return tuple(again), tuple(gone)


def _list_paths(manifests: Sequence[Manifest]) -> list[str]:
    whole = {one.path for manifest in manifests for one in manifest.files}
    return sorted(whole | {one.path for manifest in manifests for one in manifest.rejected_files})


def _find_rebuilds(
    lake: Lake, states: Mapping[str, _TableState], rollbacks: Mapping[str, TableRollback]
) -> dict[str, str]:
    """The tables that the next run makes anew, and why: the same that its plan will say once all has gone back."""
    found: dict[str, str] = {}
    for name, table in lake.graph.declarations.items():
        record = _get_record_after(states, rollbacks, name)
        if not isinstance(table, Table) or record is None:
            continue
        for one in table.inputs.values():
            before = record.inputs.get(one.table)
            after = _get_record_after(states, rollbacks, one.table)
            if before is None or after is None:
                found.setdefault(name, "it has no rows then")
                continue
            entries = _get_entries_after(states, rollbacks, one.table)
            stands, matters = (
                table_log.resolve_version(entries, before),
                one.role == "incremental" or one.on_change == "rebuild",
            )
            differs = one.table in rollbacks and stands.generation != after.generation
            if differs and (matters or table_log.is_rolled_back(entries, stands.version)):
                found.setdefault(name, f"of what it read in {one.table}, not all is left{_describe_loss(lake, table)}")
            elif one.table in found and matters:
                found.setdefault(name, f"{one.table} is made anew{_describe_loss(lake, table)}")
    return found


def _describe_loss(lake: Lake, table: Table) -> str:
    if not table.write.is_append_only or lake.get_landed_source(table):
        return ""
    return ", and what it had appended of rows that are no longer there is lost"


def _get_record_after(
    states: Mapping[str, _TableState], rollbacks: Mapping[str, TableRollback], name: str
) -> Record | None:
    if name in rollbacks:
        return build_record(rollbacks[name], Run("", ""))
    return next((e.record for e in states[name].entries if e.record), None) if name in states else None


def _get_entries_after(
    states: Mapping[str, _TableState], rollbacks: Mapping[str, TableRollback], name: str
) -> list[Entry]:
    """A table's commits once it has gone back."""
    entries = list(states[name].entries)
    if name not in rollbacks:
        return entries
    back = rollbacks[name]
    return [
        table_log.Entry(back.current_version + 1, datetime.now(UTC), "RESTORE", {}, build_record(back, Run("", ""))),
        *entries,
    ]


def build_record(rollback: TableRollback, run: Run) -> Record:
    """The record of the commit by which a run takes a table back; it has consumed what the table's rows were made from."""
    base = rollback.target_record or replace(rollback.last_record, inputs={})
    return Record(
        run=run.id, batch=rollback.batch, generation=rollback.last_record.generation + 1, inputs=base.inputs, rows={"restored": rollback.target_rows},
        revision=run.revision, fingerprint=base.fingerprint, committed_at=now(), rolled_back_run=rollback.run, restored_version=rollback.restored_version, rolled_back_batches=rollback.rolled_back_batches,
    )  # fmt: skip
