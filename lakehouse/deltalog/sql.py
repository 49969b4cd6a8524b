"""SQL over the lake's tables with DuckDB, on what delta-rs says each holds: no Spark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lakehouse.deltalog import table_log
from lakehouse.errors import QueryError
from lakehouse.storage.location import Location, is_folder, list_names

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

_WRITE_STATEMENTS = {"ALTER", "CREATE", "DELETE", "DROP", "INSERT", "MERGE_INTO", "UPDATE"}
_LAYER = re.compile(r"[a-z][a-z0-9_]*")
# A table's name, or in the quarantine layer.table: anything else never comes from here.
_TABLE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")


def find_tables(lake: Location) -> dict[str, Location]:
    """Every table below the lake's folder, by name; those of the quarantine as quarantine."layer.table"."""
    found: dict[str, Location] = {}
    for layer in filter(_LAYER.fullmatch, list_names(lake)):
        for name in filter(_TABLE.fullmatch, list_names(lake / layer)):
            if is_folder(lake.joinpath(layer, name, "_delta_log")):
                found[f"{layer}.{name}"] = lake.joinpath(layer, name)
    return found


def query(lake: Location, sql: str) -> pa.Table:
    """The result of a query over the lake's tables, named layer.table, times in UTC.

    The query sees nothing but these tables: no file and no network.

    Raises:
        QueryError: the query is wrong; the text says where, and which tables there are.
    """
    import duckdb

    known = find_tables(lake)
    connection = duckdb.connect()
    try:
        _register(connection, {name: path for name, path in known.items() if name.split(".", 1)[1] in sql.lower()})
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        statements = connection.extract_statements(sql)
        if statements and statements[-1].type.name in _WRITE_STATEMENTS:
            raise QueryError("Queries only read here: `lakehouse run` writes the tables, from what is declared.")
        result = connection.sql(sql)
        if result is None:
            raise QueryError("The query gives no result: ask for one with SELECT.")
        return result.to_arrow_table()
    except duckdb.Error as error:
        raise QueryError(
            f"{error}\nTables: {', '.join(map(_quote_table_name, known)) or 'none yet; run `lakehouse run`'}"
        ) from None
    finally:
        connection.close()


def _quote_table_name(name: str) -> str:
    """A table's name as a query says it: that of a quarantine has a dot of its own."""
    layer, table = name.split(".", 1)
    return f'{layer}."{table}"' if "." in table else name


def _register(connection: DuckDBPyConnection, wanted: Mapping[str, Location]) -> None:
    for number, (name, path) in enumerate(wanted.items()):
        opened = table_log.open_log(path)
        if opened is None:
            continue
        layer, table = name.split(".", 1)
        connection.register(f"_t{number}", opened.delta_table.to_pyarrow_dataset())
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{layer}"')
        connection.execute(f'CREATE VIEW "{layer}"."{table}" AS SELECT * FROM _t{number}')
