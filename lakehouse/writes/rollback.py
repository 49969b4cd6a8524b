"""Rollback of a run by its plan (`lakehouse.plan.rollback`): one commit for each table, readers before their inputs.

An interrupted rollback leaves some tables rolled back and others not. The lake can still be read, a run continues from
that state, and a second rollback does the rest. Rejects that were pending before the run are first written to the
quarantine again, under the new generation. They do not count until their table is rolled back.
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
    from lakehouse.catalog import Catalog
    from lakehouse.deltalog.commit_record import Record, Run
    from lakehouse.engine.base import Engine, Tables


def roll_back_tables(engine: Engine, catalog: Catalog, plan: RollbackPlan, run: Run) -> None:
    """Roll back each table of the plan.

    Args:
        run: The run that the commits record.

    Raises:
        RollbackError: Another writer changed a table. Tables before it stay rolled back.
        LockError: The run's lease on the lake expired; another run may hold it.
    """
    for rollback in plan.tables:
        _roll_back_table(engine.open_tables(), catalog, rollback, run)


def _roll_back_table(tables: Tables, catalog: Catalog, rollback: TableRollback, run: Run) -> None:
    run.lease.check()
    record, path = build_record(rollback, run), catalog.get_path(rollback.table)
    _restore_rejects(tables, catalog, rollback, record, run)
    log = table_log.open_log(path)
    if log is None or log.version != rollback.current_version:
        raise RollbackError(
            f"{rollback.table}: another writer changed this table, which was not rolled back; "
            "other tables may have been. Roll back the run again."
        )
    run.lease.check()
    target, commit = Target(rollback.table, path), Commit(rollback.table, record)
    if rollback.target_version is None:
        tables.empty(target, commit)
    else:
        tables.restore(target, commit, rollback.target_version)


def _restore_rejects(tables: Tables, catalog: Catalog, rollback: TableRollback, record: Record, run: Run) -> None:
    """Make the rejects pending again that were pending before the run. The quarantine loses no row."""
    path = catalog.get_quarantine_path(rollback.table)
    last = table_log.read_last_record(path)
    if last is None:
        return
    rows, restored = tables.read_latest(path), rollback.target_record
    if restored is None:
        pending = rows.limit(0)
    else:
        pending = rows.where(f"generation = {restored.generation} AND batch <= {restored.batch}")
        pending = exclude_settled(tables, catalog.get_outcomes_path(rollback.table), pending, restored.batch)
    # Rejects of an uncommitted batch with this commit's number have to go.
    if last.batch < record.batch and pending.isEmpty():
        return
    commit = Commit(f"quarantine/{rollback.table}", record, run.lease.issue_fencing_token())
    target = Target(f"the quarantine of {rollback.table}", path, ("batch",), has_change_feed=False)
    tables.replace(rules.add_audit_columns(pending, record), target, commit, f"batch >= {record.batch}")
