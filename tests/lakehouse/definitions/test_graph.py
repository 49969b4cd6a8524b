"""Declarations checked together: every problem at once, before Spark starts."""

from __future__ import annotations

import gc
import importlib
import linecache
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions import graph
from lakehouse.definitions.fingerprint import compute_fingerprint
from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import Database, source
from lakehouse.definitions.tables import Declaration, Table, incremental, lookup, table
from lakehouse.definitions.write_modes import Append, History, Merge, Rebuild, Replace
from lakehouse.errors import DeclarationError
from tests.orders import mart

COLUMNS = {"id": "bigint", "day": "date"}


def a_table(name: str, write: Any = None, *, columns: dict[str, str] | None = None, **more: Any) -> Table:
    def function(**inputs: DataFrame) -> DataFrame:
        return next(iter(inputs.values()))

    return table(name, columns=columns or COLUMNS, write=write or Rebuild(), **more)(function)


RAW = source("raw.items", landing="items", columns=("id",))


def problems(*declared: Declaration) -> str:
    with pytest.raises(DeclarationError) as raised:
        graph.build(declared)
    return str(raised.value)


def from_database(name: str, database: Database, **more: Any) -> Declaration:
    columns = {"id": "bigint", "name": "string", "updated_at": "timestamp"}
    return source(name, landing=name, columns=columns, format=more.pop("format", "parquet"), database=database, **more)


def test_a_source_in_a_database_says_what_would_lose_rows_or_tell_a_secret() -> None:
    url, key = "jdbc:postgresql://${PGHOST}/sources", ("id",)
    said = problems(
        from_database("raw.csv", Database(url, "t", ()), format="csv"),
        from_database("raw.snapshot", Database(url, "t", key)),
        from_database("raw.time", Database(url, "t", key, "updated_at")),
        from_database("raw.text", Database(url, "t", key, "name")),
        from_database("raw.settled", Database(url, "t", key, "id", settle_seconds=60)),
        from_database("raw.waits", Database(url, "t", key, "id"), settle_seconds=60),
        from_database("raw.secret", Database(f"{url}?user=me&Password=canary", "t", key, "id")),
        from_database("raw.secrets", Database("jdbc:mysql://me:canary@host/sources", "t", key, "id")),
        from_database("raw.typo", Database(url, "t", ("di",), "ids")),
    )
    for one in (
        "raw.csv: a CSV source lands as strings",
        "raw.csv: what comes from a database lands as format='parquet'",
        "raw.csv: its database needs a key",
        "raw.snapshot: a second snapshot of a day replaces the first: give on_redelivery='replace'",
        "raw.time: rows with an earlier updated_at may become visible later: give Database(settle_seconds=...)",
        "raw.text: its cursor name is a string, which is neither a number nor a timestamp",
        "raw.settled: settle_seconds need a cursor that is a timestamp, not a bigint",
        "raw.waits: settle_seconds would hold back its own extracts",
        "raw.secret: its database's url holds a password",
        "raw.secrets: its database's url holds a password",
        "raw.typo: its database's di is none of its columns",
        "raw.typo: its database's ids is none of its columns",
    ):
        assert one in said
    assert "canary" not in said
    graph.build([from_database("raw.good", Database(url, "t", key, "updated_at", settle_seconds=60))])


def test_the_orders_example_is_ordered_by_its_inputs() -> None:
    orders = graph.load(["tests.orders"])
    names = list(orders.declarations)
    assert len(names) == 11
    for name in names:
        assert all(names.index(i) < names.index(name) for i in orders.inputs(name))
    assert orders.downstream("clean.payments") == tuple(
        n for n in names if n in ("mart.receipts", "mart.daily_revenue")
    )
    assert set(orders.upstream("mart.receipts")) == {"raw.orders", "raw.payments", "clean.orders", "clean.payments"}


def test_a_decorated_function_is_still_called_like_one() -> None:
    declared = a_table("clean.items", rows="raw.items")
    assert declared(rows="any frame") == "any frame"


def test_problems_are_told_all_at_once() -> None:
    said = problems(
        RAW,
        source("raw.items", landing="again", columns=("id",)),
        source("Raw", landing="x", columns=("a b",)),
        source("raw.out", landing="../elsewhere", columns=("id",)),
        source("raw.typed", landing="x", columns={"id": "bigint"}),
        a_table("clean.items", Merge(), rows="raw.itmes"),
        a_table("clean.history", History(effective_column="since"), rows="raw.items"),
        a_table("clean.append", Append(), rows="raw.items", more="raw.items2"),
        a_table("mart.days", Replace(partition="id"), rows="raw.items"),
        a_table("mart.by", Replace(partition="day"), rows=incremental("clean.append", date_column="id")),
        a_table("mart.rules", rules=(Rule("a", "true"), Rule("a", "false")), stats=("nothing",), rows="raw.items"),
        a_table("mart.own", rules=(Rule("parsed", "true"),), columns={"_Partition": "int"}, rows="raw.items"),
        a_table("mart.one", rows="mart.two"),
        a_table("mart.two", rows="mart.one"),
        source("raw.odd", landing="x", columns=("id",), format="xml", on_redelivery="add"),  # type: ignore[arg-type]
        a_table("mart.level", rules=(Rule("a", "true", "drop"),), rows="raw.items"),  # type: ignore[arg-type]
        a_table("mart.way", Merge, rows="raw.items"),
        a_table("mart.newest", Merge(newest_by="day"), key=("id",), rows="raw.items"),  # type: ignore[arg-type]
        a_table(
            "mart.type", columns={"id": "int64", "price": "decimal(10,2)", "tags": "array<string>"}, rows="raw.items"
        ),
    )
    for one in (
        "raw.items: declared twice",
        "'Raw': a table's name is layer.table",
        "Raw: column 'a b' is not a plain name",
        "raw.out: landing='../elsewhere' is not a folder below the landing zone",
        "raw.typed: a CSV source lands as strings",
        "clean.items: its input rows='raw.itmes' is not declared; did you mean raw.items?",
        "clean.items: this way of writing needs a key",
        "clean.history: this way of writing needs a key",
        "clean.history: column 'since' is named but not declared",
        "clean.append: Append needs exactly one driver, got 2",
        "clean.append: its input more='raw.items2' is not declared",
        "mart.days: the partition 'id' must be one of its date columns",
        "mart.days: driver raw.items must say by which date column",
        "mart.by: clean.append has no date column 'id' to map to partitions",
        "mart.rules: two rules are called 'a'",
        "mart.own: rule parsed is the platform's own name",
        "mart.own: column _Partition is the platform's own name",
        "mart.rules: column 'nothing' is named but not declared",
        "tables read each other in a circle: mart.",
        "raw.odd: format='xml' is not one of csv, json, parquet",
        "raw.odd: on_redelivery='add' is not one of upsert, replace",
        "mart.level: rule a is to 'drop', which is not one of warn, quarantine, fail",
        "mart.way: write=<class 'lakehouse.definitions.write_modes.Merge'> is not one of Append(), Merge()",
        "mart.newest: newest_by='day' is text, not columns; write ('day',)",
        "mart.type: column id has type 'int64', which is none of Spark SQL's",
    ):
        assert one in said
    assert "column price" not in said
    assert "column tags" not in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": "id"}, r"mart.items: key='id' is text, not columns; write key=\('id',\)"),
        ({"stats": "id"}, "mart.items: stats='id' is text"),
        ({"columns": ("id",)}, "must map each column to its type"),
        ({"rules": Rule("a", "true")}, "must be a list of rules"),
    ],
)
def test_text_where_columns_are_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        table("mart.items", **{"columns": COLUMNS, "write": Rebuild(), "rows": "raw.items", **options})


def test_a_table_that_reads_itself_is_a_circle() -> None:
    assert "circle: mart.one -> mart.one" in problems(a_table("mart.one", rows="mart.one"))


def test_inputs_that_the_function_does_not_take_are_told() -> None:
    said = problems(RAW, table("clean.items", columns=COLUMNS, write=Rebuild(), wrong="raw.items")(helper))
    assert "clean.items" in said
    assert "'wrong'" in said


@pytest.mark.parametrize(
    ("selectors", "chosen"),
    [
        ((), "raw.a raw.b clean.a clean.b mart.a"),
        (("raw",), "raw.a raw.b"),
        (("raw.a+",), "raw.a clean.a mart.a"),
        (("+clean.a",), "raw.a clean.a"),
        (("+clean.a+",), "raw.a clean.a mart.a"),
        (("+mart",), "raw.a raw.b clean.a clean.b mart.a"),
        (("clean.b", "raw.a"), "raw.a clean.b"),
    ],
)
def test_selectors(selectors: tuple[str, ...], chosen: str) -> None:
    assert set(five().select(selectors)) == set(chosen.split())
    assert five().select(selectors) == tuple(n for n in five().declarations if n in chosen.split())


def five() -> graph.Graph:
    return graph.build(
        [
            a_table("mart.a", a="clean.a", b=lookup("clean.b")),
            a_table("clean.b", rows="raw.b"),
            a_table("clean.a", rows="raw.a"),
            source("raw.b", landing="b", columns=("id",)),
            source("raw.a", landing="a", columns=("id",)),
        ]
    )


def test_selectors_that_name_nothing_are_told_with_the_nearest_names() -> None:
    with pytest.raises(DeclarationError) as raised:
        five().select(["clean.aa", "zzz", "CLEAN", "raw.a", "clean.a\n", "clean.a; DROP"])
    said = str(raised.value)
    assert "'clean.aa' names no table; did you mean clean.a" in said
    assert "'zzz' names no table; known are" in said
    for name in ("CLEAN", "clean.a\\n", "clean.a; DROP"):
        assert f"'{name}' names no table" in said


def test_modules_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_tables.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "unfinished_tables.py").write_text("def (\n")
    (tmp_path / "no_tables.py").write_text("x = 1\n")
    (tmp_path / "nameless_tables.py").write_text("\norders = source('raw.orders')\n")
    for module, said in (
        ("broken_tables", "nothing_of_this_name"),
        ("unfinished_tables", r"cannot be loaded.*unfinished_tables.py, line 1\)"),
        ("nameless_tables", r"name 'source' is not defined \(.*/nameless_tables.py, line 2\)"),
        ("no_tables", "No table is declared"),
        ("not_there_at_all", "cannot be loaded"),
    ):
        with pytest.raises(DeclarationError, match=said):
            graph.load([module])
        sys.modules.pop(module, None)


def test_a_table_imported_by_two_modules_is_declared_once() -> None:
    assert len(graph.load(["tests.orders", "tests.orders.clean"]).declarations) == 11


# --- the hash of a declaration --------------------------------------------------------------------------------------

LIMIT = 5
YEARS = range(2000, 2010)


@cache
def years() -> list[int]:
    return list(YEARS)


def helper(rows: DataFrame) -> DataFrame:
    return rows.where(f"id < {LIMIT}").where(F.col("year").isin(years())).where(F.col("age") < mart.LOOK_BACK_DAYS)


def first(rows: DataFrame) -> DataFrame:
    """Says something."""
    return helper(rows)


def second(rows: DataFrame) -> DataFrame:
    return helper(rows).distinct()


def hashed(function: Callable[..., DataFrame], **more: Any) -> str:
    options: dict[str, Any] = {"columns": COLUMNS, "write": Rebuild(), "rows": "raw.items", **more}
    return compute_fingerprint(table("mart.items", **options)(function))


def written(folder: Path, text: str) -> str:
    """The definition of a table whose function is written so."""
    (folder / "written_tables.py").write_text(
        "from lakehouse.definitions.tables import table; from lakehouse.definitions.write_modes import Rebuild\n"
        "@table('mart.items', columns={'id': 'bigint'}, write=Rebuild(), rows='raw.items')\n" + text
    )
    linecache.clearcache()
    sys.modules.pop("written_tables", None)
    importlib.invalidate_caches()
    sys.path_importer_cache.clear()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return compute_fingerprint(importlib.import_module("written_tables").items)


def test_words_and_layout_do_not_change_a_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    said = written(tmp_path, "def items(rows):\n    return rows.where('id > 1')\n")
    assert said == written(
        tmp_path, 'def items(rows):\n    """Doc."""\n    # why\n    return rows.where(\n"id > 1",)\n'
    )
    assert said != written(tmp_path, "def items(rows):\n    return rows.where('id > 2')\n")


def test_a_definition_changes_with_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    said = hashed(first)
    assert hashed(first) == said
    assert hashed(second) != said
    assert hashed(first, write=Append()) != said
    assert hashed(first, rules=(Rule("a", "id > 1"),)) not in (said, hashed(first, rules=(Rule("a", "id > 2"),)))
    assert hashed(first, rows=incremental("raw.items", date_column="day")) != said
    assert hashed(first, columns={**COLUMNS, "more": "int"}) != said
    for place, name, value in (
        (sys.modules[__name__], "LIMIT", 6),
        (sys.modules[__name__], "YEARS", range(2000, 2011)),  # by way of a function that is cached
        (mart, "LOOK_BACK_DAYS", 3),  # by way of a module
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, value)
            assert hashed(first) != said, f"{name}, a constant of a function that it calls"
    assert hashed(first) == said


def test_tables_are_hashed_side_by_side() -> None:
    """Where Python collects what is no longer used while it parses, other threads have their turn, as with a JVM's objects to let go."""

    def others_turn(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    thresholds = gc.get_threshold()
    said = hashed(first)
    gc.callbacks.append(others_turn)
    gc.set_threshold(10)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert {*threads.map(lambda _: hashed(first), range(400))} == {said}
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(others_turn)
