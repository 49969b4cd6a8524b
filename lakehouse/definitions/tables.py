"""Tables: frozen data beside the function that computes the rows.

Importing a module with declarations starts nothing and needs no session, because a declaration is data. The decorated
function stays callable: a test can call it with small frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from lakehouse.definitions.data_types import normalize_types
from lakehouse.definitions.identifiers import require_sequences
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import Source
from lakehouse.definitions.write_modes import Replace
from lakehouse.errors import DeclarationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lakehouse.definitions.write_modes import WriteMode

# Optional column (array of strings) of a function that parses landed text: the row's landed columns with a value that
# does not parse as the declared type. The platform quarantines such rows and never writes the column.
UNPARSED = "_unparsed"
OnLookupChange = Literal["rebuild", "ignore"]


@dataclass(frozen=True)
class Input:
    """One input of a table, and the effect of its changes. Created by `incremental` and `lookup`."""

    table: str
    role: Literal["incremental", "lookup"]
    date_column: str | None = None
    lookback_days: int = 0
    affects_days: int = 0
    on_change: OnLookupChange = "rebuild"


def incremental(table: str, date_column: str | None = None, *, lookback_days: int = 0, affects_days: int = 0) -> Input:
    """Declare an incremental input: its changed rows decide which rows are recomputed.

    The options are for a table that is replaced by partition.

    Args:
        date_column: The input's date column that maps its rows to partitions.
        lookback_days: Days before a partition that must be read to compute it.
        affects_days: Days after a changed row that the row still affects.
    """
    return Input(table, "incremental", date_column, lookback_days, affects_days)


def lookup(table: str, on_change: OnLookupChange = "ignore") -> Input:
    """Declare a lookup: an input that is read in full.

    Args:
        on_change: ``rebuild`` rebuilds the table after each change of the lookup. ``ignore`` applies a change only to
            rows that are recomputed for another reason.
    """
    return Input(table, "lookup", on_change=on_change)


@dataclass(frozen=True)
class Table:
    """A declared table. Calling it calls its function."""

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
        """The incremental inputs, by parameter of the function."""
        return {name: input_ for name, input_ in self.inputs.items() if input_.role == "incremental"}

    @property
    def incremental_input_table(self) -> str:
        """The first incremental input's table. Row-preserving tables have exactly one."""
        return next(iter(self.incremental_inputs.values())).table

    @property
    def partitioning(self) -> Replace | None:
        """The partitioning; None where the table is not replaced by partition."""
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

    Args:
        columns: Spark SQL type of each column that the function returns. A row-preserving function of a source must
            also pass `_file_id` and `_row` through.
        stats: Columns by which readers filter: Delta stores their minimum and maximum per file. The partition, the
            numbers, dates and times of the key, and the ``date_column`` of a reader are always among them.
        inputs: For each parameter of the function, the table to read. A bare name is an incremental input.

    Raises:
        DeclarationError: An argument has a wrong type.
    """
    _check_arguments(name, columns, rules, key=key, stats=stats)
    _check_inputs(name, inputs)

    def declare(function: Callable[..., DataFrame]) -> Table:
        return Table(
            name=name,
            function=function,
            columns=MappingProxyType(normalize_types(columns)),
            write=write,
            inputs=MappingProxyType({k: incremental(v) if isinstance(v, str) else v for k, v in inputs.items()}),
            key=tuple(key),
            rules=tuple(rules),
            stats=tuple(stats),
        )

    return declare


def _check_arguments(name: str, columns: object, rules: object, **columns_by_parameter: object) -> None:
    """Check the types of arguments before they are copied.

    Raises:
        DeclarationError: An argument has a wrong type.
    """
    require_sequences(name, **columns_by_parameter)
    if not isinstance(columns, Mapping):
        raise DeclarationError(
            f"{name}: columns={columns!r} must map each column to its type, such as {{'id': 'bigint'}}."
        )
    if isinstance(rules, Rule):
        raise DeclarationError(f"{name}: rules={rules!r} must be a list of rules, such as [Rule(...)].")
    for rule in rules if isinstance(rules, Sequence) else [rules]:
        if not isinstance(rule, Rule):
            raise DeclarationError(
                f"{name}: rules has {rule!r}, which is not a rule such as Rule('name', 'amount > 0')."
            )


def _check_inputs(name: str, inputs: Mapping[str, object]) -> None:
    """Check that each input is a name, or made by `incremental` or `lookup`.

    Raises:
        DeclarationError: An input is something else, such as a function or a list.
    """
    for parameter, value in inputs.items():
        if not isinstance(value, str | Input):
            raise DeclarationError(
                f"{name}: {parameter}={value!r} is not an input. Write the name of a table, incremental(...) or "
                "lookup(...)."
            )
