"""Sources: the format and origin of landed files, and the columns that the platform adds to their rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.data_types import normalize_types
from lakehouse.definitions.identifiers import require_sequences

# Columns that the platform adds to every landed row. `_file_id` grows with each delivery. `_row` counts the file's
# records from 1. `_ingested_at` (UTC) is the time of the batch, the same for each of its rows.
LANDING_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "_file_id": "bigint",
        "_row": "bigint",
        "_source_file": "string",
        "_batch_id": "bigint",
        "_ingested_at": "timestamp",
    }
)
# Landing columns that a row-preserving function passes through. They identify the landed row of each row.
ORIGIN_COLUMNS = ("_file_id", "_row")
# Column in which a CSV or JSON reader stores a line that does not have the declared shape.
MALFORMED = "_malformed"
# Column for values that no declared column has, as a JSON object. A contract that accepts other columns adds it.
RESCUED = "_rescued"
SECRET_IN_URL = re.compile(r"password|//[^/@]*@", re.IGNORECASE)
Format = Literal["csv", "json", "parquet"]
OnRedelivery = Literal["upsert", "replace"]


@dataclass(frozen=True)
class Database:
    """A table or view of a database, read over JDBC. A run extracts its rows into the landing zone.

    Names have the database's own case. Without a cursor, each extract is a full snapshot in a file of its day. It is
    left out if it equals the one before. With a cursor, an extract has the rows with a greater cursor than any before.

    A row becomes visible when its transaction ends, perhaps after rows with a greater cursor. If the cursor is a
    number, only one writer at a time may assign it.

    Attributes:
        url: The JDBC URL. ``${NAME}`` stands for an environment variable.
        key: The columns that order the rows of an extract.
        cursor: A column that every change sets to a greater value, such as `updated_at`.
        settle_seconds: Rows with a younger cursor wait for a later extract. It must be longer than any transaction.
        user: Name of the environment variable with the user.
        password: Name of the environment variable with the password.
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
    """A source of landed files. Its bronze table has one row per landed record, uncleaned.

    Attributes:
        landing: The folder below the landing zone.
        columns: Spark SQL type of each column, in file order. In a CSV source all are strings, as landed.
        options: In a CSV source ``sep``, ``quote`` and ``escape``, each one character, ``header`` ("true" or "false")
            and ``encoding``; in a JSON source ``encoding`` alone. By default values are separated by commas and quoted
            by ``"``, a quote within a value is doubled, a file has a header, and text is UTF-8. Any other option is
            refused.
        on_redelivery: Meaning of a file that is delivered again under its old name. ``upsert`` adds its rows to those
            of the earlier delivery. ``replace`` replaces them; rows that the new file lacks are removed.
        settle_seconds: A file is not read before it has been unchanged for that long.
        stats: Columns by which readers filter: Delta stores their minimum and maximum per file. `_file_id` by default.
        database: The database from which the run extracts the files, as Parquet.
        contract: The policy for files with other columns.
        header_names: Header of each column of a CSV file that is not named as the column.
        path_columns: Declared columns that the files lack. Their values are in the folders' names, such as `year=2024`.
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
    header_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    path_columns: tuple[str, ...] = ()

    @property
    def file_source(self) -> Source:
        """The source with the columns that are in its files."""
        if not self.path_columns:
            return self
        columns = {name: kind for name, kind in self.columns.items() if name not in self.path_columns}
        return replace(self, columns=MappingProxyType(columns), path_columns=())

    @property
    def platform_columns(self) -> dict[str, str]:
        """Columns that the platform adds to the source's rows, with their types."""
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
    header_names: Mapping[str, str] | None = None,
    path_columns: Sequence[str] = (),
) -> Source:
    """Declare a source. Columns without types are strings."""
    require_sequences(name, columns=columns, stats=stats, path_columns=path_columns)
    types = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "string")
    return Source(
        name,
        landing,
        format,
        MappingProxyType(normalize_types(types)),
        MappingProxyType(dict(options or {})),
        on_redelivery,
        settle_seconds,
        tuple(stats),
        database,
        contract,
        MappingProxyType(dict(header_names or {})),
        tuple(path_columns),
    )
