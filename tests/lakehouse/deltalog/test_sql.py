"""SQL queries on a lake that delta-rs wrote. They read its tables and nothing else."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.deltalog.sql import find_tables, list_rows, query
from lakehouse.errors import QueryError

A_FRAME_OF_THIS_MODULE = pa.table({"x": [1]})


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    at = datetime(2024, 1, 1, 12, tzinfo=UTC)
    for name, rows in {
        "gold/days": {"id": [1, 2, 3], "at": [at] * 3},
        "gold/names": {"id": [1, 2], "name": ["Ada", None]},
        "quarantine/clean.items": {"rules": [["a"], ["b"]]},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(folder / name, pa.table(rows))
    (folder / "gold" / "no_table").mkdir()
    (folder / "not a layer").mkdir()
    return folder


def test_tables_join_and_times_are_utc(lake: Path) -> None:
    DeltaTable(lake / "gold" / "days").delete("id = 3")
    result = query(
        lake, 'SELECT n.name, CAST(d.at AS VARCHAR) AS at FROM gold.days d JOIN "gold"."names" n USING (id) ORDER BY 1'
    )
    assert result.to_pylist() == [
        {"name": "Ada", "at": "2024-01-01 12:00:00+00"},
        {"name": None, "at": "2024-01-01 12:00:00+00"},
    ]
    for sql in ("SELECT count(*) AS n FROM gold.days", "select count(*) as n from GOLD.DAYS"):
        assert query(lake, sql).to_pylist() == [{"n": 2}]


def test_a_folder_with_another_name_is_no_table(lake: Path) -> None:
    for name in ('x" AS SELECT 1; DROP TABLE y; --', "Upper", "a b", "a.b.c"):
        write_deltalake(lake / "gold" / name, pa.table({"x": [1]}))
    assert set(find_tables(lake)) == {"gold.days", "gold.names", "quarantine.clean.items"}
    with pytest.raises(QueryError):
        query(lake, 'SELECT * FROM gold."a b"')


def test_the_quarantine_is_a_table_too(lake: Path) -> None:
    assert set(find_tables(lake)) == {"gold.days", "gold.names", "quarantine.clean.items"}
    assert query(lake, 'SELECT count(*) AS n FROM quarantine."clean.items"').to_pylist() == [{"n": 2}]


def test_a_query_error_lists_the_tables(lake: Path, tmp_path: Path) -> None:
    for sql in ("SELECT * FROM gold.nothing", "SELEC 1", "SELECT nothing FROM gold.days"):
        with pytest.raises(QueryError, match=r'Tables: gold\.days, gold\.names, quarantine\."clean\.items"'):
            query(lake, sql)
    with pytest.raises(QueryError, match="none yet"):
        query(tmp_path / "no_lake", "SELECT * FROM gold.days")


def test_a_query_without_a_result_is_an_error(lake: Path) -> None:
    for sql in ("", "-- nothing"):
        with pytest.raises(QueryError):
            query(lake, sql)


def test_a_writing_query_is_an_error(lake: Path) -> None:
    for sql in ("CREATE TABLE t AS SELECT 1", "select 1; DROP VIEW gold.days", "DELETE FROM gold.days"):
        with pytest.raises(
            QueryError, match=r"The query would change data, but queries are read-only\. .*`lakehouse run` writes"
        ):
            query(lake, sql)
    for sql in ("PIVOT gold.days ON id USING count(*)", "CREATE TEMP VIEW v AS FROM gold.days; FROM v"):
        assert query(lake, sql).num_rows


def test_a_query_reaches_no_file_or_variable(lake: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM read_text('{secret}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
        f"ATTACH '{tmp_path / 'out.db'}'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM A_FRAME_OF_THIS_MODULE",
        "SELECT getenv('HOME')",
    ):
        with pytest.raises(QueryError):
            query(lake, sql)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lake", "secret.csv"]


def test_dates_of_any_year_are_printed(lake: Path) -> None:
    days = pa.array([2932896, -719162, 2932897, None], pa.int32()).cast(pa.date32())
    rows = {"id": [1, 2, 3, 4], "day": days, "at": days.cast(pa.timestamp("us", "UTC"))}
    write_deltalake(lake / "gold" / "sentinels", pa.table(rows))
    assert list_rows(query(lake, "SELECT * FROM gold.sentinels ORDER BY id")) == [
        {"id": 1, "day": "9999-12-31", "at": "9999-12-31 00:00:00+00"},
        {"id": 2, "day": "0001-01-01", "at": "0001-01-01 00:00:00+00"},
        {"id": 3, "day": "10000-01-01", "at": "10000-01-01 00:00:00+00"},
        {"id": 4, "day": None, "at": None},
    ]
    nested = query(lake, 'SELECT [day] AS days, {\'at\': "at"} AS "it\'s ""at""" FROM gold.sentinels WHERE id = 3')
    assert list_rows(nested) == [{"days": "[10000-01-01]", 'it\'s "at"': "{'at': '10000-01-01 00:00:00+00'}"}]
    [ordinary] = list_rows(query(lake, "SELECT day FROM gold.sentinels WHERE id = 1"))
    assert ordinary == {"day": date(9999, 12, 31)}
