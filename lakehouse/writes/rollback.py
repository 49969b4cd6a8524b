"""Taking back a run, as planned (`lakehouse.plan.rollback`): each table goes back in one commit, readers before what they read.

An attempt that was cut short leaves tables that went back, and others that did not: the lake can be read, a run goes on from there,
and taking the run back once more does what is left. Rejects that waited before the run are put into the quarantine again, under
the new generation, before their table goes back: until it has, they do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse.deltalog import table_log
from lakehouse.engine.base import Commit, Target
from lakehouse.errors import UndoError
from lakehouse.plan.rollback import Back, Undo, record_of
from lakehouse.writes import rules
from lakehouse.writes.table_writer import unsettled

if TYPE_CHECKING:
    from lakehouse.catalog import Lake
    from lakehouse.deltalog.commit_record import Record, Run
    from lakehouse.engine.base import Engine, Tables


def take_back(engine: Engine, lake: Lake, planned: Undo, run: Run) -> None:
    """Do what is planned; ``run`` is on record for it.

    Raises:
        UndoError: another writer came between; what went back before stays so.
        LockError: the lake may be another's by now.
    """
    for back in planned.tables:
        _take_back(engine.isolate(), lake, back, run)


def _take_back(tables: Tables, lake: Lake, back: Back, run: Run) -> None:
    run.hold.check()
    record, path = record_of(back, run), lake.path(back.table)
    _set_aside_again(tables, lake, back, record, run)
    opened = table_log.open_log(path)
    if opened is None or opened.version != back.now:
        raise UndoError(
            f"{back.table} was written meanwhile, and did not go back; others may have. Take the run back again."
        )
    run.hold.check()
    target, commit = Target(back.table, path), Commit(back.table, record)
    if back.to is None:
        tables.empty(target, commit)
    else:
        tables.restore(target, commit, back.to)


def _set_aside_again(tables: Tables, lake: Lake, back: Back, record: Record, run: Run) -> None:
    """Have the rejects that waited before the run wait again; nothing is taken out of the quarantine."""
    place = lake.quarantine(back.table)
    before = table_log.last_record(place)
    if before is None:
        return
    rows = tables.read_latest(place)
    if back.then is None:
        waited = rows.limit(0)
    else:
        waited = rows.where(f"generation = {back.then.generation} AND batch <= {back.then.batch}")
        waited = unsettled(tables, lake.outcomes(back.table), waited, back.then.batch)
    # Those of a batch that was never committed are in the way of this one's number.
    if before.batch < record.batch and waited.isEmpty():
        return
    commit = Commit(f"quarantine/{back.table}", record, run.hold.fence())
    target = Target(f"the quarantine of {back.table}", place, ("batch",), change_feed=False)
    tables.replace(rules.stamped(waited, record), target, commit, f"batch >= {record.batch}")
