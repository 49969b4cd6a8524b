"""Steps: what a run does to each table, one dataclass per action, and what the user asked of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import ClassVar, Literal

from lakehouse.deltalog.commit_record import InputVersion
from lakehouse.landing.manifest import LandedFile, Manifest
from lakehouse.plan.schema_diff import SchemaChanges

Action = Literal["none", "ingest", "build", "update", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a run does to one table, and why.

    Attributes:
        reasons: Why, in words for the user.
        inputs: The version of each input that the step reads.
        since: The version of each input that the table consumed last.
        batch: Number of the batch that the step commits.
        generation: Number of times that the table was built from whole inputs, this step included.
        changes: How the declared columns differ from those of the table.
        columns_changed: Columns of the table that readers may miss, or find with another type.
        is_breaking: The differences cannot be applied without a full refresh.
        is_code_changed: The table's function or declaration changed since the last commit.
        after: Inputs that the run changes first. Until then the sizes are not known.
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
        rows: Rows to read; None where that is not known (CSV and JSON files that nobody has read yet).
        bytes: Bytes to read.
        full_refresh: The user asked for the whole table.
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
        drift: What happens to files with other columns than declared.
    """

    action = "ingest"
    files: tuple[LandedFile, ...] = ()
    manifest: Manifest | None = None
    drift: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Build(WriteStep):
    """Make the table from whole inputs."""

    action = "build"


@dataclass(frozen=True, kw_only=True)
class Update(WriteStep):
    """Apply the rows of the inputs that changed between ``since`` and ``inputs``."""

    action = "update"


@dataclass(frozen=True, kw_only=True)
class UpdatePartitions(Update):
    """Compute and replace some partitions of a table.

    Attributes:
        partitions: First days of the partitions, in order.
        backfilled: Those partitions that no change touched and only a range of days asked for.
    """

    partitions: tuple[date, ...]
    backfilled: tuple[date, ...] = ()


@dataclass(frozen=True)
class Request:
    """What the user asked of a run beyond the ordinary."""

    full_refresh: frozenset[str] = frozenset()
    since: date | None = None
    until: date | None = None
