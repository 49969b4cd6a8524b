"""The ledger: the input versions that each table has consumed, recorded in the table's own commits.

Every data commit carries a `Record` in Delta's commit userMetadata. A record is atomic with the rows of its commit.
No separate checkpoint exists that could be lost or run ahead. Commits without a record (OPTIMIZE, ALTER, another
writer's) are no new input: readers look for the last record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from lakehouse.errors import LedgerError
from lakehouse.storage.lease import Lease

# Format of the records and of all other files of a lake: manifests, quarantines, trainings.
FORMAT = 2


@dataclass(frozen=True)
class Run:
    """One run of the pipeline.

    Attributes:
        id: Ids sort by time.
        revision: Revision of the code.
        lease: The run's lease on the lake.
    """

    id: str
    revision: str
    lease: Lease = field(default_factory=Lease, compare=False)


@dataclass(frozen=True)
class InputVersion:
    """A version of an input table, and its generation."""

    version: int
    generation: int


@dataclass(frozen=True)
class Record:
    """Record of one commit.

    Attributes:
        batch: Number of the commit among the table's. It never restarts.
        generation: It grows with each rebuild (first build, full refresh, rollback). A reader does not look for changes
            across two generations.
        inputs: All input versions consumed so far, not only those of this commit.
        rows: Row counts by outcome.
        committed_at: UTC, ISO 8601.
        column_changes: Differences from the earlier or the declared columns, in words.
        backfill_range: First and last of the partitions that a backfill requested.
        rolled_back_run: The run that this commit rolls back.
        restored_version: The recorded version that the rollback restores. -1: there was none, and the table is emptied.
        rolled_back_batches: Batches that no longer count, and those of the rollbacks, in every record of a source's
            table. Thus the rows of the table and the manifests that count change in one commit.
        quarantined_batch: Newest batch with rejects in the quarantine. 0: there is none. None: an earlier version of
            lakehouse wrote the record.
    """

    run: str
    batch: int
    generation: int
    inputs: Mapping[str, InputVersion]
    rows: Mapping[str, int]
    revision: str
    fingerprint: str
    committed_at: str
    files: int = 0
    column_changes: tuple[str, ...] = ()
    backfill_range: tuple[str, ...] = ()
    rolled_back_run: str = ""
    restored_version: int = -1
    rolled_back_batches: tuple[int, ...] = ()
    quarantined_batch: int | None = None
    format: int = field(default=FORMAT)

    def to_json(self) -> str:
        return json.dumps({"lakehouse": asdict(self)}, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> Record | None:
        """Return the record in a commit's userMetadata; None where there is none.

        Raises:
            LedgerError: The record has another format.
        """
        try:
            value = json.loads(text or "")["lakehouse"]
            _check_format(value["format"])
            inputs = {n: InputVersion(item["version"], item["generation"]) for n, item in value["inputs"].items()}
            data = {f.name: value[f.name] for f in fields(cls) if f.name in value and f.name != "inputs"}
            lists = ("column_changes", "backfill_range", "rolled_back_batches")
            data |= {name: tuple(data.get(name, ())) for name in lists}
            return cls(inputs=inputs, **data)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def _check_format(number: int) -> None:
    if number > FORMAT:
        raise LedgerError(
            f"The lake was written by a newer version of lakehouse (format {number}; this version reads {FORMAT}). "
            f"Upgrade lakehouse to a version that reads format {number}."
        )
    if number < FORMAT:
        raise LedgerError(
            f"The lake was written by an older version of lakehouse (format {number}; this version reads {FORMAT}). "
            "To rebuild it from its landed files, move its folders `lake` and `manifests` away and run `lakehouse run`."
        )


def build_application_id(table: str, generation: int) -> str:
    """Build the id that fences a table's batches (Delta's txnAppId). Delta skips a batch number that it has seen."""
    return f"lakehouse/{table}/{generation}"
