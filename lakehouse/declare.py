"""Declarations: what a table is, as frozen data beside the function that computes it.

Importing a module that declares tables starts nothing and needs no session: a declaration is data, and the
decorated function stays callable, so that a test can hand it small frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lakehouse.errors import DeclarationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COLUMN_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

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
# Rules that no table declares: that a key is whole, a line has its shape, a value could be read.
KEY_RULE, MALFORMED_RULE, READABLE_RULE = "key_is_not_null", "well_formed", "readable"
# Where a source whose contract takes files with other columns keeps what no declared column holds, as a JSON object.
RESCUED = "_rescued"

TYPES = (
    "string", "boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "date", "timestamp", "timestamp_ntz",
    "binary",
)  # fmt: skip
SECRET_IN_URL = re.compile(r"password|//[^/@]*@", re.IGNORECASE)

OnBreach = Literal["warn", "quarantine", "fail"]
Format = Literal["csv", "json", "parquet"]
Relanded = Literal["upsert", "replace"]
Effect = Literal["everything", "nothing"]
OnNewColumn = Literal["fail", "rescue", "add"]
OnMissingColumn = Literal["fail", "ignore"]
OnRetypedColumn = Literal["fail", "rescue"]


@dataclass(frozen=True)
class Rule:
    """What a good row satisfies, as a SQL predicate over the table's columns.

    A row breaks the rule unless the predicate is true, so a predicate that is null counts as broken: say
    ``x IS NULL OR x > 0`` where a missing value is fine. The predicate is text, so that reading a declaration needs no
    Spark session and other engines can evaluate it.
    """

    name: str
    predicate: str
    on_breach: OnBreach = "quarantine"


@dataclass(frozen=True)
class Append:
    """New rows of the driver are added; nothing written is ever changed."""


@dataclass(frozen=True)
class Merge:
    """The newest row for each key.

    ``newest_by`` names the columns that order rows of one key, most significant first: the source's own effective time
    where it has one. Ties, and tables without such a time, go by delivery: `_file_id`, then `_row`.
    """

    newest_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class History:
    """Every version of each key (slowly changing dimension, type 2).

    ``effective`` names the column that says when a row became known. The table gains `valid_from` (inclusive), `valid_to`
    (exclusive, null while current) and `is_current`; rows that repeat what was known before add no version.

    With ``snapshots``, all rows of one time are a snapshot of the whole: a key that the next one leaves out was deleted then, and
    begins anew where a later one has it again. A row that was set aside still says that its key was there; a
    snapshot without any row says nothing.
    """

    effective: str
    snapshots: bool = False


@dataclass(frozen=True)
class Replace:
    """Whole partitions, recomputed when an input touches them.

    ``partition`` is a date column of the table; with ``unit="month"`` it holds the month's first day. Partitions are
    logical: they are replaced by predicate, in one commit, and the files are not split by them.
    """

    partition: str
    unit: Literal["day", "month"] = "day"


@dataclass(frozen=True)
class Rebuild:
    """The whole table, recomputed when any input changed."""


Write = Append | Merge | History | Replace | Rebuild


@dataclass(frozen=True)
class Input:
    """One input of a table and what a change in it affects; made by `drives` and `looks_up`."""

    table: str
    role: Literal["driver", "lookup"]
    by: str | None = None
    context_days: int = 0
    reach_days: int = 0
    on_change: Effect = "everything"


def drives(table: str, by: str | None = None, *, context_days: int = 0, reach_days: int = 0) -> Input:
    """An input whose changed rows decide what is recomputed.

    For a table replaced by partition, ``by`` is the input's date column that says which partitions a row belongs to,
    ``context_days`` how many days before a partition must be read to compute it, ``reach_days`` how many days
    after a changed row it still influences.
    """
    return Input(table, "driver", by, context_days, reach_days)


def looks_up(table: str, on_change: Effect = "nothing") -> Input:
    """An input that is read whole. A change in it affects everything, or nothing until the next touch."""
    return Input(table, "lookup", on_change=on_change)


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
class Contract:
    """What becomes of a landed file whose columns are not those declared.

    To ``fail``, the default of each, rejects the file as a whole, on record, and no other. What is kept aside otherwise is in the
    row's `_rescued`, a JSON object by column, so that no value is lost and no null is silent:

    - ``new_column``: the column is ignored and its values kept aside (``rescue``), or added to the bronze table with the type that it
      came with (``add``); one whose name differs from another's only in case, begins with an underscore, or is none for a table is
      always kept aside.
    - ``missing_column``: null in the file's rows (``ignore``), which say so in `_rescued` under `_missing`.
    - ``changed_type`` (Parquet): values that the declared type can hold without loss are taken, others kept aside (``rescue``).
    """

    new_column: OnNewColumn = "fail"
    missing_column: OnMissingColumn = "fail"
    changed_type: OnRetypedColumn = "fail"

    @property
    def rescues(self) -> bool:
        """Whether files with other columns may be taken, and so whether the bronze table has a column `_rescued`."""
        return self != Contract()


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
    relanded: Relanded = "upsert"
    settle_seconds: float = 0.0
    stats: tuple[str, ...] = ()
    database: Database | None = None
    contract: Contract = Contract()

    @property
    def platform_columns(self) -> dict[str, str]:
        """What the platform adds to its rows."""
        malformed = {MALFORMED: "string"} if self.format != "parquet" else {}
        return {**malformed, **({RESCUED: "string"} if self.contract.rescues else {}), **LANDING_COLUMNS}


@dataclass(frozen=True)
class Table:
    """A declared table; calling it calls its function."""

    name: str
    function: Callable[..., DataFrame]
    columns: Mapping[str, str]
    write: Write
    inputs: Mapping[str, Input]
    key: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    stats: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> DataFrame:
        return self.function(*args, **kwargs)

    @property
    def drivers(self) -> dict[str, Input]:
        return {name: one for name, one in self.inputs.items() if one.role == "driver"}

    @property
    def driver(self) -> str:
        """The table that drives it, where only one does."""
        return next(iter(self.drivers.values())).table


Declared = Source | Table


def source(
    name: str,
    *,
    landing: str,
    columns: Sequence[str] | Mapping[str, str],
    format: Format = "csv",
    options: Mapping[str, str] | None = None,
    relanded: Relanded = "upsert",
    settle_seconds: float = 0.0,
    stats: Sequence[str] = (),
    database: Database | None = None,
    contract: Contract = Contract(),
) -> Source:
    """Declare a source. Column names alone mean strings."""
    _refuse_text(name, columns=columns, stats=stats)
    typed = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "string")
    return Source(
        name,
        landing,
        format,
        MappingProxyType(dict(typed)),
        MappingProxyType(dict(options or {})),
        relanded,
        settle_seconds,
        tuple(stats),
        database,
        contract,
    )


def table(
    name: str,
    *,
    columns: Mapping[str, str],
    write: Write,
    key: Sequence[str] = (),
    rules: Sequence[Rule] = (),
    stats: Sequence[str] = (),
    **inputs: str | Input,
) -> Callable[[Callable[..., DataFrame]], Table]:
    """Declare the decorated function as a table.

    Each further keyword names a parameter of the function and the table it reads; a bare name is a driver. ``columns`` maps
    the columns that the function returns to their Spark SQL types; a function driven by a source must also pass
    `_file_id` and `_row` through. ``stats`` names the columns whose minimum and maximum Delta keeps per file: those that
    readers filter by. The partition, the numbers, dates and times of the key, and a driver's ``by`` are always among them.
    """

    _refuse_text(name, key=key, stats=stats)
    if not isinstance(columns, Mapping):
        raise DeclarationError(
            f"{name}: columns={columns!r} must map each column to its type, such as {{'id': 'bigint'}}."
        )
    if isinstance(rules, Rule):
        raise DeclarationError(f"{name}: rules={rules!r} must be a list of rules, such as [Rule(...)].")

    def declare(function: Callable[..., DataFrame]) -> Table:
        return Table(
            name=name,
            function=function,
            columns=MappingProxyType(dict(columns)),
            write=write,
            inputs=MappingProxyType({k: drives(v) if isinstance(v, str) else v for k, v in inputs.items()}),
            key=tuple(key),
            rules=tuple(rules),
            stats=tuple(stats),
        )

    return declare


def _refuse_text(name: str, **columns: object) -> None:
    """Refuse ("id"), which is text and would be taken for columns i and d."""
    for parameter, value in columns.items():
        if isinstance(value, str):
            raise DeclarationError(
                f"{name}: {parameter}={value!r} is text, not columns; write {parameter}=({value!r},)."
            )
