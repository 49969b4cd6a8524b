"""Steps of a run, one dataclass per action, and the user's request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import ClassVar, Literal

from lakehouse.deltalog.commit_record import InputVersion
from lakehouse.landing.manifest import LandedFile, Manifest
from lakehouse.plan.schema_diff import SchemaChanges

Action = Literal["none", "ingest", "build", "update", "blocked"]


@dataclass(frozen=True)
class ForeignCommit:
    """Commit by which another writer changed rows of a table."""

    table: str
    version: int
    operation: str

    def describe(self) -> str:
        """Return the commit in words."""
        return f"{self.table} has version {self.version} ({self.operation}) of another writer"


@dataclass(frozen=True, kw_only=True)
class Step:
    """The action of a run on one table, and the reasons.

    Attributes:
        reasons: The reasons, in words for the user.
        inputs: The version of each input that the step reads.
        previous_versions: The version of each input that the table consumed last.
        batch: Number of the batch that the step commits.
        generation: Number of times that the table was built from all rows of its inputs, this step included.
        schema_changes: Differences between the declared and the existing columns.
        changed_columns: Existing columns that readers may miss, or may read with another type.
        is_breaking: The differences cannot be applied without a full refresh.
        is_code_changed: The table's function or declaration changed since the last commit.
        pending_inputs: Inputs that the run changes first. Until then the sizes are not known.
        foreign_commits: Commits of other writers in the table since its last recorded commit, and those in its inputs
            that the step reads for the first time.
    """

    action: ClassVar[Action] = "none"
    has_work: ClassVar[bool] = False
    table: str
    reasons: tuple[str, ...] = ()
    inputs: Mapping[str, InputVersion] = field(default_factory=dict)
    previous_versions: Mapping[str, int] = field(default_factory=dict)
    batch: int = 0
    generation: int = 1
    schema_changes: SchemaChanges = field(default_factory=SchemaChanges)
    changed_columns: tuple[str, ...] = ()
    is_breaking: bool = False
    is_code_changed: bool = False
    pending_inputs: tuple[str, ...] = ()
    foreign_commits: tuple[ForeignCommit, ...] = ()

    @property
    def accepted_commits(self) -> tuple[ForeignCommit, ...]:
        """The foreign commits with rows that stay in the table, or reach it, by this step."""
        is_overwritten = isinstance(self, Build) or (isinstance(self, WriteStep) and self.is_full_refresh)
        return tuple(
            c for c in self.foreign_commits if self.has_work and not (is_overwritten and c.table == self.table)
        )


@dataclass(frozen=True, kw_only=True)
class Idle(Step):
    """Nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Blocked(Step):
    """Nothing can be done: an input has no table yet."""

    action = "blocked"


@dataclass(frozen=True, kw_only=True)
class WriteStep(Step):
    """A step that writes a table.

    Attributes:
        rows: Rows to read; None where the number is unknown (CSV and JSON files before they are read).
        bytes: Bytes to read.
        is_full_refresh: The user requested a rebuild of the table.
    """

    has_work = True
    rows: int | None = 0
    bytes: int = 0
    is_full_refresh: bool = False


@dataclass(frozen=True, kw_only=True)
class Ingest(WriteStep):
    """Append a batch of landed files to a source's table.

    Attributes:
        manifest: The batch's manifest, where an earlier run pinned the batch and did not finish it.
        drift: Files with other columns than declared, and their outcome, in words.
    """

    action = "ingest"
    files: tuple[LandedFile, ...] = ()
    manifest: Manifest | None = None
    drift: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Build(WriteStep):
    """Build the table from all rows of its inputs."""

    action = "build"


@dataclass(frozen=True, kw_only=True)
class Update(WriteStep):
    """Apply the input rows that changed between ``previous_versions`` and ``inputs``."""

    action = "update"


@dataclass(frozen=True, kw_only=True)
class UpdatePartitions(Update):
    """Compute and replace some partitions of a table.

    Attributes:
        partitions: First days of the partitions, in order.
        backfilled: Those of the partitions that no change affects and only a backfill requests.
    """

    partitions: tuple[date, ...]
    backfilled: tuple[date, ...] = ()


@dataclass(frozen=True)
class RunRequest:
    """Options of a run: tables to rebuild, days to backfill, and whether rows of other writers are refused."""

    full_refresh: frozenset[str] = frozenset()
    since: date | None = None
    until: date | None = None
    refuses_foreign_commits: bool = False
