"""Taking back a run, as planned (`lakehouse.plan.rollback`): each table goes back in one commit, readers before what they read.

An attempt that was cut short leaves tables that went back, and others that did not: the lake can be read, a run goes on from there,
and taking the run back once more does what is left. Rejects that waited before the run are put into the quarantine again, under
the new generation, before their table goes back: until it has, they do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakehouse.deltalog import table_log
from lakehouse.engine.base import Commit, Target
from lakehouse.errors import RollbackError
from lakehouse.plan.rollback import RollbackPlan, TableRollback, build_record
from lakehouse.writes import rules
from lakehouse.writes.table_writer import exclude_settled

if TYPE_CHECKING:
    from lakehouse.catalog import Lake
    from lakehouse.deltalog.commit_record import Record, Run
    from lakehouse.engine.base import Engine, Tables


def roll_back_tables(engine: Engine, lake: Lake, plan: RollbackPlan, run: Run) -> None:
    """Do what is planned; ``run`` is on record for it.

    Raises:
        RollbackError: another writer came between; what went back before stays so.
        LockError: the lake may be another's by now.
    """
    for back in plan.tables:
        _roll_back_table(engine.isolate(), lake, back, run)


def _roll_back_table(tables: Tables, lake: Lake, back: TableRollback, run: Run) -> None:
    run.lease.check()
    record, path = build_record(back, run), lake.path(back.table)
    _restore_rejects(tables, lake, back, record, run)
    opened = table_log.open_log(path)
    if opened is None or opened.version != back.current_version:
        raise RollbackError(
            f"{back.table} was written meanwhile, and did not go back; others may have. Take the run back again."
        )
    run.lease.check()
    target, commit = Target(back.table, path), Commit(back.table, record)
    if back.target_version is None:
        tables.empty(target, commit)
    else:
        tables.restore(target, commit, back.target_version)


def _restore_rejects(tables: Tables, lake: Lake, back: TableRollback, record: Record, run: Run) -> None:
    """Have the rejects that waited before the run wait again; nothing is taken out of the quarantine."""
    place = lake.quarantine_path(back.table)
    before = table_log.read_last_record(place)
    if before is None:
        return
    rows = tables.read_latest(place)
    if back.target_record is None:
        waited = rows.limit(0)
    else:
        waited = rows.where(f"generation = {back.target_record.generation} AND batch <= {back.target_record.batch}")
        waited = exclude_settled(tables, lake.outcomes_path(back.table), waited, back.target_record.batch)
    # Those of a batch that was never committed are in the way of this one's number.
    if before.batch < record.batch and waited.isEmpty():
        return
    commit = Commit(f"quarantine/{back.table}", record, run.lease.issue_fencing_token())
    target = Target(f"the quarantine of {back.table}", place, ("batch",), change_feed=False)
    tables.replace(rules.add_audit_columns(waited, record), target, commit, f"batch >= {record.batch}")
