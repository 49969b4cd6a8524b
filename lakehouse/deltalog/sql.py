"""SQL queries on the lake's tables with DuckDB and delta-rs. Needs no Spark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lakehouse.causes import describe_known_cause
from lakehouse.deltalog import table_log
from lakehouse.errors import QueryError
from lakehouse.storage.location import Location, is_folder, list_names

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from lakehouse.deltalog.verified_dataset import VerifiedDataset

_WRITE_STATEMENTS = {"ALTER", "CREATE", "DELETE", "DROP", "INSERT", "MERGE_INTO", "UPDATE"}
_LAYER = re.compile(r"[a-z][a-z0-9_]*")
# A table's name, or layer.table in the quarantine. The platform writes no other names.
_TABLE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")


def find_tables(lake: Location) -> dict[str, Location]:
    """Return the path of every table below the lake's folder, by name. A quarantine is quarantine."layer.table"."""
    tables: dict[str, Location] = {}
    for layer in filter(_LAYER.fullmatch, list_names(lake)):
        for name in filter(_TABLE.fullmatch, list_names(lake / layer)):
            if is_folder(lake.joinpath(layer, name, "_delta_log")):
                tables[f"{layer}.{name}"] = lake.joinpath(layer, name)
    return tables


def query(lake: Location, sql: str) -> pa.Table:
    """Run a query on the lake's tables, named layer.table. Times are in UTC.

    The query can read nothing but these tables: no file and no network.

    Raises:
        QueryError: The query is wrong, or the machine fails, for example for lack of memory.
        DamagedFileError: A page of a file is damaged.
    """
    import duckdb

    tables = find_tables(lake)
    used_tables = {name: path for name, path in tables.items() if name.split(".", 1)[1] in sql.lower()}
    datasets = _open_datasets(used_tables)
    try:
        with connect({f"_t{number}": dataset for number, dataset in enumerate(datasets.values())}) as connection:
            return _execute(connection, datasets, sql)
    except duckdb.Error as error:
        if cause := describe_known_cause(error):
            raise QueryError(cause) from error
        raise QueryError(
            f"{error}\nTables: {', '.join(map(_quote_table_name, tables)) or 'none yet; run `lakehouse run`'}"
        ) from None


@contextmanager
def connect(datasets: Mapping[str, VerifiedDataset]) -> Iterator[DuckDBPyConnection]:
    """Open a connection with datasets as views. Times are in UTC.

    Raises:
        DamagedFileError: A page of a file is damaged.
    """
    import duckdb

    from lakehouse.deltalog.verified_dataset import name_damaged_file

    with duckdb.connect() as connection, name_damaged_file(*datasets.values()):
        connection.execute("SET TimeZone = 'UTC'")
        for name, dataset in datasets.items():
            connection.register(name, dataset)
        yield connection


def _execute(connection: DuckDBPyConnection, tables: Iterable[str], sql: str) -> pa.Table:
    """Run a query on tables that are registered by their numbers."""
    for number, name in enumerate(tables):
        layer, table = name.split(".", 1)
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{layer}"')
        connection.execute(f'CREATE VIEW "{layer}"."{table}" AS SELECT * FROM _t{number}')
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    statements = connection.extract_statements(sql)
    if statements and statements[-1].type.name in _WRITE_STATEMENTS:
        raise QueryError(
            "The query would change data, but queries are read-only. "
            "Write a SELECT; `lakehouse run` writes the declared tables."
        )
    result = connection.sql(sql)
    if result is None:
        raise QueryError("The query has no result. Write a SELECT.")
    return result.to_arrow_table()


def list_rows(result: pa.Table) -> list[dict[str, Any]]:
    """Return a query's rows. Where Python lacks a date, such as one of the year 10000, dates and times are text."""
    try:
        return list(result.to_pylist())
    except (OverflowError, ValueError):
        import duckdb

        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("result", result)
            columns = (_cast_dates(field) for field in result.schema)
            return list(connection.sql(f"SELECT {', '.join(columns)} FROM result").to_arrow_table().to_pylist())


def _cast_dates(field: pa.Field) -> str:
    """Return a column of a result, as text if it has dates or times at any depth."""
    name = '"' + field.name.replace('"', '""') + '"'
    has_dates = re.search(r"date|time", str(field.type))
    return f"CAST({name} AS VARCHAR) AS {name}" if has_dates else name


def _quote_table_name(name: str) -> str:
    """Quote a table's name for a query: the name of a quarantine has a dot of its own."""
    layer, table = name.split(".", 1)
    return f'{layer}."{table}"' if "." in table else name


def _open_datasets(tables: Mapping[str, Location]) -> dict[str, VerifiedDataset]:
    logs = ((name, table_log.open_log(path)) for name, path in tables.items())
    return {name: log.open_dataset() for name, log in logs if log is not None}
