"""The ledger: what each table has consumed, kept in its own commits.

Every data commit carries a `Record` in Delta's commit userMetadata. A record is atomic with the rows that it speaks of, so
there is no checkpoint to lose or to run ahead. Commits without a record (OPTIMIZE, ALTER, another writer's) are no
new input: readers look for the last record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from lakehouse.errors import LedgerError
from lakehouse.storage.lease import Lease

# Format of the records, and of all else that a lake keeps on disk: manifests, quarantines, trainings.
FORMAT = 2


@dataclass(frozen=True)
class Run:
    """One run: its id, which sorts by time, the revision of the code that it runs, and its hold of the lake."""

    id: str
    revision: str
    lease: Lease = field(default_factory=Lease, compare=False)


@dataclass(frozen=True)
class InputVersion:
    """A version of an input table, and the generation that it belonged to."""

    version: int
    generation: int


@dataclass(frozen=True)
class Record:
    """What one commit did.

    ``inputs`` is the full map of versions consumed so far, not only those of this commit. ``batch`` counts the table's
    commits and never restarts; ``generation`` grows when the table was made anew (first build, full refresh), so
    that a reader knows not to look for changes across it. ``contract`` says how the columns came to differ from those before, or from
    those declared. ``asked`` are the first and the last of the partitions that were recomputed because a range of days was asked for.
    ``at`` is UTC, ISO 8601.

    A commit that took back a run says which (``undoes``) and the recorded version whose rows it put back (``restores``; -1:
    there was none, and the table was emptied). ``undone`` are the batches of landed files that no longer count, in every
    record of a source's table: what the table holds and which manifests stand for it change in one commit.
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
            inputs = {n: InputVersion(one["version"], one["generation"]) for n, one in value["inputs"].items()}
            known = {f.name: value[f.name] for f in fields(cls) if f.name in value and f.name != "inputs"}
            known |= {
                name: tuple(known.get(name, ())) for name in ("column_changes", "backfill_range", "rolled_back_batches")
            }
            return cls(inputs=inputs, **known)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def _check_format(number: int) -> None:
    if number > FORMAT:
        raise LedgerError(
            f"The lake was written by a newer version of lakehouse (format {number}; this version reads {FORMAT}). "
            "Install that version."
        )
    if number < FORMAT:
        raise LedgerError(
            f"The lake was written by an older version of lakehouse (format {number}; this version reads {FORMAT}). "
            "To rebuild it from its landed files, move its folders `lake` and `manifests` away, then run "
            "`lakehouse run`."
        )


def build_application_id(table: str, generation: int) -> str:
    """The id under which a table's batches are fenced (Delta's txnAppId): one that was used before is skipped."""
    return f"lakehouse/{table}/{generation}"
