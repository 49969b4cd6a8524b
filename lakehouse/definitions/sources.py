"""Sources: how landed files look, where they come from, and which columns the platform adds to their rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.identifiers import refuse_text

# What the platform adds to every landed row. `_file_id` grows with the order of deliveries, `_row` counts the
# file's records from 1, `_ingested_at` (UTC) is the batch's time, the same for each of its rows.
LANDING_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "_file_id": "bigint",
        "_row": "bigint",
        "_source_file": "string",
        "_batch_id": "bigint",
        "_ingested_at": "timestamp",
    }
)
# The landing columns that a row-preserving function passes through: they name the landed row it came from.
ORIGIN_COLUMNS = ("_file_id", "_row")
# Where a CSV or JSON reader keeps a line that does not have the declared shape.
MALFORMED = "_malformed"
# Where a source whose contract takes files with other columns keeps what no declared column holds, as a JSON object.
RESCUED = "_rescued"
SECRET_IN_URL = re.compile(r"password|//[^/@]*@", re.IGNORECASE)
Format = Literal["csv", "json", "parquet"]
OnRedelivery = Literal["upsert", "replace"]


@dataclass(frozen=True)
class Database:
    """A table, or view, of a database that JDBC reaches, whose rows a run brings into the landing zone.

    In ``url``, ``${NAME}`` stands for a variable of the environment; ``user`` and ``password`` name the variables that hold
    these. Names are taken as they are, in the database's own case. ``key`` orders the rows of an extract. Without a ``cursor``
    each extract is a snapshot of the whole, taken as a file of its day, where it differs from the one before; with it, the rows
    whose cursor is greater than any extracted before: a column that every change sets to something greater, such as
    `updated_at`. A row becomes visible when its transaction ends, perhaps after greater ones: where the cursor is a time,
    rows younger than ``settle_seconds`` are left for later, which must be longer than any transaction; a cursor that is a
    number must be given out by one writer at a time.
    """

    url: str
    table: str
    key: tuple[str, ...]
    cursor: str | None = None
    settle_seconds: float = 0.0
    user: str = "PGUSER"
    password: str = "PGPASSWORD"  # noqa: S105  # a variable's name
    driver: str = "org.postgresql.Driver"


@dataclass(frozen=True)
class Source:
    """How one source's files land; its bronze table holds one row per landed record, nothing cleaned.

    ``landing`` is the folder below the landing zone. ``columns`` maps each column to its Spark SQL type, in file order;
    a CSV source's are all strings, as landed. ``relanded`` says what a file delivered again under its old name
    means: its rows join the earlier delivery's (``upsert``), or take their place, missing rows included (``replace``).
    ``settle_seconds`` leaves a file alone until it has not changed for that long. With a ``database`` its files, Parquet, are
    made by the run. ``contract`` says what becomes of a file with other columns.
    """

    name: str
    landing: str
    format: Format
    columns: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    on_redelivery: OnRedelivery = "upsert"
    settle_seconds: float = 0.0
    stats: tuple[str, ...] = ()
    database: Database | None = None
    contract: Contract = Contract()

    @property
    def platform_columns(self) -> dict[str, str]:
        """What the platform adds to its rows."""
        malformed = {MALFORMED: "string"} if self.format != "parquet" else {}
        return {**malformed, **({RESCUED: "string"} if self.contract.has_rescued_column else {}), **LANDING_COLUMNS}


def source(
    name: str,
    *,
    landing: str,
    columns: Sequence[str] | Mapping[str, str],
    format: Format = "csv",
    options: Mapping[str, str] | None = None,
    on_redelivery: OnRedelivery = "upsert",
    settle_seconds: float = 0.0,
    stats: Sequence[str] = (),
    database: Database | None = None,
    contract: Contract = Contract(),
) -> Source:
    """Declare a source. Column names alone mean strings."""
    refuse_text(name, columns=columns, stats=stats)
    typed = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "string")
    return Source(
        name,
        landing,
        format,
        MappingProxyType(dict(typed)),
        MappingProxyType(dict(options or {})),
        on_redelivery,
        settle_seconds,
        tuple(stats),
        database,
        contract,
    )
