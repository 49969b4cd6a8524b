"""Tables: frozen data beside the function that computes the rows.

Importing a module that declares tables starts nothing and needs no session: a declaration is data, and the
decorated function stays callable, so that a test can hand it small frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lakehouse.definitions.identifiers import refuse_text
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import Source
from lakehouse.definitions.write_modes import Replace
from lakehouse.errors import DeclarationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lakehouse.definitions.write_modes import WriteMode

# A function that types landed text may return this column (array of strings): the landed columns of the row that hold
# something, but nothing of the wanted type. The platform sets such rows aside and never writes the column.
UNPARSED = "_unparsed"
TYPES = (
    "string", "boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "date", "timestamp", "timestamp_ntz",
    "binary",
)  # fmt: skip
OnLookupChange = Literal["rebuild", "ignore"]


@dataclass(frozen=True)
class Input:
    """One input of a table and what a change in it affects; made by `drives` and `looks_up`."""

    table: str
    role: Literal["incremental", "lookup"]
    date_column: str | None = None
    lookback_days: int = 0
    affects_days: int = 0
    on_change: OnLookupChange = "rebuild"


def incremental(table: str, date_column: str | None = None, *, lookback_days: int = 0, affects_days: int = 0) -> Input:
    """An input whose changed rows decide what is recomputed.

    For a table replaced by partition, ``by`` is the input's date column that says which partitions a row belongs to,
    ``context_days`` how many days before a partition must be read to compute it, ``reach_days`` how many days
    after a changed row it still influences.
    """
    return Input(table, "incremental", date_column, lookback_days, affects_days)


def lookup(table: str, on_change: OnLookupChange = "ignore") -> Input:
    """An input that is read whole. A change in it affects everything, or nothing until the next touch."""
    return Input(table, "lookup", on_change=on_change)


@dataclass(frozen=True)
class Table:
    """A declared table; calling it calls its function."""

    name: str
    function: Callable[..., DataFrame]
    columns: Mapping[str, str]
    write: WriteMode
    inputs: Mapping[str, Input]
    key: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    stats: tuple[str, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> DataFrame:
        return self.function(*args, **kwargs)

    @property
    def incremental_inputs(self) -> dict[str, Input]:
        return {name: one for name, one in self.inputs.items() if one.role == "incremental"}

    @property
    def incremental_input_table(self) -> str:
        """The table that drives it, where only one does."""
        return next(iter(self.incremental_inputs.values())).table

    @property
    def partitioning(self) -> Replace | None:
        """How the table is partitioned; None where it is not replaced by partition."""
        return self.write if isinstance(self.write, Replace) else None


Declaration = Source | Table


def table(
    name: str,
    *,
    columns: Mapping[str, str],
    write: WriteMode,
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

    refuse_text(name, key=key, stats=stats)
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
            inputs=MappingProxyType({k: incremental(v) if isinstance(v, str) else v for k, v in inputs.items()}),
            key=tuple(key),
            rules=tuple(rules),
            stats=tuple(stats),
        )

    return declare
