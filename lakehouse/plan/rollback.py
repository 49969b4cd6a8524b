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
from lakehouse.definitions.fingerprint import definition_of
from lakehouse.definitions.sources import Source
from lakehouse.definitions.tables import Table
from lakehouse.deltalog import sql, table_log
from lakehouse.deltalog.commit_record import Record, Run
from lakehouse.errors import LakehouseError, UndoError
from lakehouse.storage import location

if TYPE_CHECKING:
    from lakehouse.catalog import Lake
    from lakehouse.deltalog.table_log import Entry, TableLog
    from lakehouse.landing.manifest import Manifest

# Evidence, which stays: what was set aside, and what became of it.
EVIDENCE = ("quarantine", "outcomes")
# What a run does to a table before its own commit, without a record.
_PREPARING = ("ADD COLUMNS", "SET TBLPROPERTIES")
_SHOWN = 5


@dataclass(frozen=True)
class Back:
    """The way of a table back to before ``run``, from version ``now`` to ``to``; without one it is emptied, as the run made it.

    ``then`` is the record of the rows that it gets back, of version ``restores``, ``last`` its newest. ``undone`` are the
    batches of landed files that count no longer, ``batch`` the number that the commit takes.
    """

    table: str
    run: str
    now: int
    to: int | None
    last: Record
    then: Record | None
    restores: int
    rows: int
    rows_then: int
    batch: int
    undone: tuple[int, ...] = ()


@dataclass(frozen=True)
class Undo:
    """What taking back a run would do.

    ``tables`` are in the order in which they go back: readers first, so that no table ever holds rows that what it was made from
    has lost. ``done`` went back in an earlier attempt. ``files`` are landed files that the next run ingests again, ``gone`` those
    whose rows do not come back as the landing zone no longer has them, ``anew`` the tables that it makes anew, and why.
    """

    run: str
    tables: tuple[Back, ...]
    done: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    anew: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Seen:
    """A table with its commits, newest first, and those of them that its rows come from."""

    name: str
    opened: TableLog
    entries: Sequence[Entry]
    live: Sequence[Entry]

    def of(self, run: str) -> list[Entry]:
        return [one for one in self.live if one.record and one.record.run == run]


def plan_undo(lake: Lake, run: str) -> Undo:
    """What taking back the run would do.

    Raises:
        UndoError: there is no such run, or it cannot be taken back: every reason is listed.
        LedgerError: a log is damaged.
    """
    seen = _seen(lake)
    _check_known(seen, run)
    held = [one for one in seen if one.of(run)]
    if problems := [said for one in held for said in _hindrances(one, run)]:
        raise _refused(run, problems)
    backs, problems = [], []
    for one in held:
        try:
            backs.append(_way_back(lake, one, run))
        except LakehouseError as error:
            problems.append(str(error))
    if problems:
        raise _refused(run, problems)
    done = [one.name for one in seen if one not in held and any(e.record and e.record.run == run for e in one.entries)]
    files, gone = _landed(lake, backs)
    anew = _anew(lake, {one.name: one for one in seen}, {one.table: one for one in backs})
    return Undo(run, tuple(backs), tuple(done), files, gone, anew)


def _refused(run: str, problems: Sequence[str]) -> UndoError:
    said = "".join(f"\n  - {one}" for one in dict.fromkeys(problems))
    return UndoError(f"Run {run} cannot be taken back, and nothing was touched:{said}")


def _seen(lake: Lake) -> list[_Seen]:
    """Every table that holds rows, readers before what they read: first what no graph names, such as scores."""
    there = sql.tables(lake.root / "lake")
    declared = [name for name in reversed(list(lake.graph.declared)) if name in there]
    others = [name for name in there if name not in declared and name.split(".")[0] not in EVIDENCE]

    def see(name: str) -> _Seen | None:
        opened = table_log.open_log(there[name])
        entries = opened.entries() if opened else []
        return _Seen(name, opened, entries, table_log.in_force(entries)) if opened else None

    with ThreadPoolExecutor() as pool:
        return [one for one in pool.map(see, [*others, *declared]) if one]


def _check_known(seen: Sequence[_Seen], run: str) -> None:
    """
    Raises:
        UndoError: no table has a commit of that run, or it is an undo.
    """
    records = [e.record for one in seen for e in one.entries if e.record]
    ours = [record for record in records if record.run == run]
    if any(record.undoes for record in ours):
        raise UndoError(f"Run {run} took back run {ours[0].undoes}, and cannot be taken back: `lakehouse run` goes on.")
    if not ours:
        newest = {e.record.run: e.record.at for one in seen for e in one.live if e.record}
        known = sorted(newest, key=lambda one: (newest[one], one), reverse=True)[:_SHOWN]
        said = f"the newest are {', '.join(known)}" if known else "there is none"
        raise UndoError(f"No table has a commit of run {run!r}; {said} (`lakehouse history TABLE`).")


def _hindrances(one: _Seen, run: str) -> Iterator[str]:
    """What was done to the table since the run, and would be lost."""
    first = one.of(run)[-1]
    since = [e for e in one.live if e.version > first.version and e.record and e.record.run != run]
    if later := list(dict.fromkeys(e.record.run for e in since if e.record)):
        yield f"{one.name} was written by {', '.join(later)} since: take back first, newest first, `lakehouse undo {later[0]}`"
    for entry in reversed(one.entries):
        if entry.version > first.version and entry.record is None and entry.operation not in table_log.HARMLESS:
            yield f"{one.name} was changed by another writer since: version {entry.version}, {entry.operation}"


def _way_back(lake: Lake, one: _Seen, run: str) -> Back:
    """
    Raises:
        UndoError: the version before the run can no longer be had.
    """
    first, last = one.of(run)[-1], next(e.record for e in one.entries if e.record)
    assert last is not None
    to = _before(one, first)
    before = next((e for e in one.entries if to is not None and e.version <= to and e.record), None)
    then = before.record if before else None
    restores = before.version if before else -1 if to is None else to
    between = [e for e in one.entries if before and to and before.version < e.version <= to]
    if to is not None and any(e.operation not in table_log.HARMLESS for e in between):
        restores = to  # another writer changed its rows then: readers of the version before have not seen that
    undone, batch = _batches(lake, one.name, last, then)
    rows_then = 0 if to is None else _whole(one, to)
    rows = one.opened.rows()
    return Back(one.name, run, one.opened.version, to, last, then, restores, rows, rows_then, batch, undone)


def _before(one: _Seen, first: Entry) -> int | None:
    """The version before the run's first commit, and before the columns that it added for that; None where there is none.

    Raises:
        UndoError: it is gone from the log.
    """
    older = [e for e in one.entries if e.version < first.version]
    if not older and first.version > 0:
        raise UndoError(f"{one.name}: its log no longer reaches back to before version {first.version}")
    to: int | None = first.version - 1 if older else None
    for entry in older:
        if entry.record is not None or entry.operation not in _PREPARING:
            break
        to = entry.version - 1 if entry.operation == "ADD COLUMNS" else to
    return to


def _whole(one: _Seen, version: int) -> int:
    """The rows of a version, all of whose files are there.

    Raises:
        UndoError: some are not.
    """
    opened = table_log.open_log(one.opened.path, version)
    assert opened is not None
    if gone := opened.gone():
        raise UndoError(f"{one.name}: {len(gone)} of the {opened.files()} files of version {version} are gone (VACUUM)")
    return opened.rows()


def _batches(lake: Lake, name: str, last: Record, then: Record | None) -> tuple[tuple[int, ...], int]:
    """The batches of landed files that count no longer once the table is as it was ``then``, and the next batch's number.

    Those are all after it: also what a later run has pinned and not ingested, and what runs before were taken back.
    """
    listed = (file.removesuffix(".json") for file in location.names(lake.root.joinpath("manifests", name)))
    batches = [int(number) for number in listed if number.isdigit()]
    kept, undone = (then.batch, then.undone) if then else (0, ())
    return tuple(sorted({*undone, *(n for n in batches if n > kept)})), max([last.batch, *batches]) + 1


# --- what the next run then does ------------------------------------------------------------------------------------


def _landed(lake: Lake, backs: Sequence[Back]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the files in the batches that go back: those that are new again, and those that are no longer there."""
    again: list[str] = []
    gone: list[str] = []
    for back in backs:
        source = lake.graph.declared.get(back.table)
        if not isinstance(source, Source):
            continue
        landing = lake.landing(source)
        after = landing.without(back.undone)
        held = {(one.path, one.identity) for manifest in after for one in manifest.files}
        taken = [one for one in landing.everything() if one.batch in back.undone and one.batch not in back.last.undone]
        pending = {one.path for one in landing.pending(after, definition_of(source))}
        again += [path for path in _paths(taken) if path in pending]
        lost = {one.path for m in taken for one in m.files if (one.path, one.identity) not in held}
        gone += sorted(lost - pending)
    return tuple(again), tuple(gone)


def _paths(manifests: Sequence[Manifest]) -> list[str]:
    whole = {one.path for manifest in manifests for one in manifest.files}
    return sorted(whole | {one.path for manifest in manifests for one in manifest.rejected})


def _anew(lake: Lake, seen: Mapping[str, _Seen], backs: Mapping[str, Back]) -> dict[str, str]:
    """The tables that the next run makes anew, and why: the same that its plan will say once all has gone back."""
    found: dict[str, str] = {}
    for name, table in lake.graph.declared.items():
        record = _record_after(seen, backs, name)
        if not isinstance(table, Table) or record is None:
            continue
        for one in table.inputs.values():
            before = record.inputs.get(one.table)
            after = _record_after(seen, backs, one.table)
            if before is None or after is None:
                found.setdefault(name, "it has no rows then")
                continue
            entries = _entries_after(seen, backs, one.table)
            stands, matters = table_log.standing(entries, before), one.role == "driver" or one.on_change == "everything"
            differs = one.table in backs and stands.generation != after.generation
            if differs and (matters or table_log.taken_back(entries, stands.version)):
                found.setdefault(name, f"of what it read in {one.table}, not all is left{_lost(lake, table)}")
            elif one.table in found and matters:
                found.setdefault(name, f"{one.table} is made anew{_lost(lake, table)}")
    return found


def _lost(lake: Lake, table: Table) -> str:
    if not table.write.is_append_only or lake.landed_driver(table):
        return ""
    return ", and what it had appended of rows that are no longer there is lost"


def _record_after(seen: Mapping[str, _Seen], backs: Mapping[str, Back], name: str) -> Record | None:
    if name in backs:
        return record_of(backs[name], Run("", ""))
    return next((e.record for e in seen[name].entries if e.record), None) if name in seen else None


def _entries_after(seen: Mapping[str, _Seen], backs: Mapping[str, Back], name: str) -> list[Entry]:
    """A table's commits once it has gone back."""
    entries = list(seen[name].entries)
    if name not in backs:
        return entries
    back = backs[name]
    return [table_log.Entry(back.now + 1, datetime.now(UTC), "RESTORE", {}, record_of(back, Run("", ""))), *entries]


def record_of(back: Back, run: Run) -> Record:
    """The record of the commit by which a run takes a table back; it has consumed what the table's rows were made from."""
    base = back.then or replace(back.last, inputs={})
    return Record(
        run=run.id, batch=back.batch, generation=back.last.generation + 1, inputs=base.inputs, rows={"restored": back.rows_then},
        revision=run.revision, definition=base.definition, at=now(), undoes=back.run, restores=back.restores, undone=back.undone,
    )  # fmt: skip
