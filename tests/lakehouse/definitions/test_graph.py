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
from lakehouse.definitions.text_formats import TextFormat
from lakehouse.definitions.write_modes import Append, History, Merge, Rebuild, Replace
from lakehouse.errors import DeclarationError
from tests.orders import mart

COLUMNS = {"id": "bigint", "day": "date"}


def make_table(name: str, write: Any = None, *, columns: dict[str, str] | None = None, **more: Any) -> Table:
    def function(**inputs: DataFrame) -> DataFrame:
        return next(iter(inputs.values()))

    return table(name, columns=columns or COLUMNS, write=write or Rebuild(), **more)(function)


RAW = source("raw.items", landing="items", columns=("id",))


def find_problems(*declared: Declaration) -> str:
    with pytest.raises(DeclarationError) as raised:
        graph.build(declared)
    return str(raised.value)


def make_database_source(name: str, database: Database, **more: Any) -> Declaration:
    columns = {"id": "bigint", "name": "string", "updated_at": "timestamp"}
    return source(name, landing=name, columns=columns, format=more.pop("format", "parquet"), database=database, **more)


def test_header_names_belong_to_declared_columns() -> None:
    names = {"id": "Order ID", "missing": "Order ID", "at": "value"}
    declared = source("raw.items", landing="items", columns=("id", "at", "value"), header_names=names)
    message = find_problems(declared)
    for problem in (
        "raw.items: header_names has column 'missing', which is not declared",
        "raw.items: header_names has 'Order ID' twice",
        "raw.items: header_names has 'value' for column at, which is the name of another column",
    ):
        assert problem in message
    json = source("raw.items", landing="items", columns=("id",), format="json", header_names={"id": "ID"})
    assert "raw.items: header_names is for CSV files" in find_problems(json)


def test_problems_of_a_database_source() -> None:
    url, key = "jdbc:postgresql://${PGHOST}/sources", ("id",)
    message = find_problems(
        make_database_source("raw.csv", Database(url, "t", ()), format="csv"),
        make_database_source("raw.snapshot", Database(url, "t", key)),
        make_database_source("raw.time", Database(url, "t", key, "updated_at")),
        make_database_source("raw.text", Database(url, "t", key, "name")),
        make_database_source("raw.settled", Database(url, "t", key, "id", settle_seconds=60)),
        make_database_source("raw.delayed", Database(url, "t", key, "id"), settle_seconds=60),
        make_database_source("raw.secret", Database(f"{url}?user=me&Password=canary", "t", key, "id")),
        make_database_source("raw.secrets", Database("jdbc:mysql://me:canary@host/sources", "t", key, "id")),
        make_database_source("raw.typo", Database(url, "t", ("di",), "ids")),
    )
    for expected in (
        "raw.csv: a CSV source lands as strings",
        "raw.csv: extracts of a database land as format='parquet'",
        "raw.csv: the database needs a key",
        "raw.snapshot: a second snapshot of a day replaces the first; use on_redelivery='replace'",
        "raw.time: rows with an earlier updated_at may become visible later; use Database(settle_seconds=...)",
        "raw.text: the cursor name is a string, which is neither a number nor a timestamp",
        "raw.settled: settle_seconds needs a cursor that is a timestamp, not a bigint",
        "raw.delayed: settle_seconds would delay the source's own extracts",
        "raw.secret: the database's url has a password",
        "raw.secrets: the database's url has a password",
        "raw.typo: the database's column di is not declared",
        "raw.typo: the database's column ids is not declared",
    ):
        assert expected in message
    assert "canary" not in message
    graph.build([make_database_source("raw.good", Database(url, "t", key, "updated_at", settle_seconds=60))])


def test_tables_are_ordered_by_their_inputs() -> None:
    orders = graph.load(["tests.orders"])
    names = list(orders.declarations)
    assert len(names) == 11
    for name in names:
        assert all(names.index(i) < names.index(name) for i in orders.list_inputs(name))
    assert orders.find_downstream("clean.payments") == tuple(
        n for n in names if n in ("mart.receipts", "mart.daily_revenue")
    )
    assert set(orders.find_upstream("mart.receipts")) == {
        "raw.orders",
        "raw.payments",
        "clean.orders",
        "clean.payments",
    }


def test_a_decorated_function_is_still_called_like_one() -> None:
    declared = make_table("clean.items", rows="raw.items")
    assert declared(rows="any frame") == "any frame"


def test_all_problems_are_reported_together() -> None:
    message = find_problems(
        RAW,
        source("raw.items", landing="again", columns=("id",)),
        source("Raw", landing="x", columns=("a b",)),
        source("raw.out", landing="../elsewhere", columns=("id",)),
        source("raw.typed", landing="x", columns={"id": "bigint"}),
        make_table("clean.items", Merge(), rows="raw.itmes"),
        make_table("clean.history", History(effective_column="since"), rows="raw.items"),
        make_table("clean.append", Append(), rows="raw.items", more="raw.items2"),
        make_table("mart.days", Replace(partition="id"), rows="raw.items"),
        make_table("mart.by", Replace(partition="day"), rows=incremental("clean.append", date_column="id")),
        make_table("mart.rules", rules=(Rule("a", "true"), Rule("a", "false")), stats=("nothing",), rows="raw.items"),
        make_table("mart.blank", rules=(Rule("a", " "),), rows=incremental("raw.items", lookback_days=2)),
        make_table("mart.week", Replace("day", unit="week"), rows=incremental("raw.items", "id", affects_days=-1)),  # type: ignore[arg-type]
        make_table("mart.look", rows="raw.items", more=lookup("raw.items", on_change="ask")),  # type: ignore[arg-type]
        make_table("mart.own", rules=(Rule("parsed", "true"),), columns={"_Partition": "int"}, rows="raw.items"),
        make_table("mart.one", rows="mart.two"),
        make_table("mart.two", rows="mart.one"),
        source("raw.odd", landing="x", columns=("id",), format="xml", on_redelivery="add"),  # type: ignore[arg-type]
        make_table("mart.level", rules=(Rule("a", "true", "drop"),), rows="raw.items"),  # type: ignore[arg-type]
        make_table("mart.way", Merge, rows="raw.items"),
        make_table("mart.newest", Merge(newest_by="day"), key=("id",), rows="raw.items"),  # type: ignore[arg-type]
        make_table(
            "mart.type", columns={"id": "int64", "price": "decimal(10,2)", "tags": "array<string>"}, rows="raw.items"
        ),
        make_table(
            "mart.maps",
            Merge(newest_by=("seen",)),
            columns={"id": "map<string,int>", "seen": "struct<at:map<string,date>>", "tags": "map<string,string>"},
            key=("id",),
            rows="raw.items",
        ),
    )
    for expected in (
        "raw.items: declared twice",
        "'Raw': a table's name is layer.table",
        "Raw: column 'a b' is not a plain name",
        "raw.out: landing='../elsewhere' is not a folder below the landing zone",
        "raw.typed: a CSV source lands as strings",
        "clean.items: input rows='raw.itmes' is not declared; did you mean raw.items?",
        "clean.items: Merge needs a key",
        "clean.history: History needs a key",
        "clean.history: column 'since' is not declared",
        "clean.append: Append needs exactly one incremental input, got 2",
        "clean.append: input more='raw.items2' is not declared",
        "mart.days: the partition 'id' must be a declared date column",
        "mart.days: incremental input raw.items needs a date column",
        "mart.by: clean.append has no date column 'id' to map to partitions",
        "mart.rules: two rules are called 'a'",
        "mart.own: rule parsed uses a name that is reserved by the platform",
        "mart.own: column _Partition uses a name that is reserved by the platform",
        "mart.rules: column 'nothing' is not declared",
        "mart.blank: rule a has predicate=' ', which is not SQL such as 'amount > 0'",
        "mart.blank: input raw.items has lookback_days=2, which is for tables with Replace()",
        "mart.week: unit='week' is not one of day, month",
        "mart.week: input raw.items has affects_days=-1, which is not a number of days from 0",
        "mart.look: input raw.items has on_change='ask', which is not one of rebuild, ignore",
        "tables read each other in a circle: mart.",
        "raw.odd: format='xml' is not one of csv, json, parquet",
        "raw.odd: on_redelivery='add' is not one of upsert, replace",
        "mart.level: rule a has on_violation='drop', which is not one of warn, quarantine, fail",
        "mart.way: write=<class 'lakehouse.definitions.write_modes.Merge'> is not one of Append(), Merge()",
        "mart.newest: newest_by='day' is text, not columns; write ('day',)",
        "mart.type: column id has type 'int64', which is none of Spark SQL's",
        "mart.maps: column id has a map, which has no order; use another column in key, newest_by and stats",
        "mart.maps: column seen has a map",
    ):
        assert expected in message
    assert "column price" not in message
    assert "column tags" not in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"key": "id"}, r"mart.items: key='id' is text, not columns; write key=\('id',\)"),
        ({"stats": "id"}, "mart.items: stats='id' is text"),
        ({"columns": ("id",)}, "must map each column to its type"),
        ({"rules": Rule("a", "true")}, "must be a list of rules"),
        ({"rules": ["id > 0"]}, r"mart.items: rules has 'id > 0', which is not a rule such as Rule\('name'"),
        ({"rows": ["raw.items"]}, r"mart.items: rows=\['raw.items'\] is not an input. Write the name of a table"),
    ],
)
def test_text_in_place_of_columns(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(DeclarationError, match=expected):
        table("mart.items", **{"columns": COLUMNS, "write": Rebuild(), "rows": "raw.items", **options})


def test_a_table_that_reads_itself_is_a_circle() -> None:
    assert "circle: mart.one -> mart.one" in find_problems(make_table("mart.one", rows="mart.one"))


def test_an_input_without_a_parameter_of_the_function() -> None:
    message = find_problems(RAW, table("clean.items", columns=COLUMNS, write=Rebuild(), wrong="raw.items")(helper))
    assert "clean.items: its function takes no parameter 'wrong'" in message
    assert "clean.items: its function's parameter 'rows' has no input" in message


@pytest.mark.parametrize(
    ("selectors", "expected"),
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
def test_selectors(selectors: tuple[str, ...], expected: str) -> None:
    five = build_five_tables()
    assert set(five.select(selectors)) == set(expected.split())
    assert five.select(selectors) == tuple(name for name in five.declarations if name in expected.split())


def build_five_tables() -> graph.Graph:
    return graph.build(
        [
            make_table("mart.a", a="clean.a", b=lookup("clean.b")),
            make_table("clean.b", rows="raw.b"),
            make_table("clean.a", rows="raw.a"),
            source("raw.b", landing="b", columns=("id",)),
            source("raw.a", landing="a", columns=("id",)),
        ]
    )


def test_unmatched_selectors_are_reported_with_near_names() -> None:
    with pytest.raises(DeclarationError) as raised:
        build_five_tables().select(["clean.aa", "zzz", "CLEAN", "raw.a", "clean.a\n", "clean.a; DROP"])
    message = str(raised.value)
    assert "'clean.aa' names no table; did you mean clean.a" in message
    assert "'zzz' names no table; known are" in message
    for name in ("CLEAN", "clean.a\\n", "clean.a; DROP"):
        assert f"'{name}' names no table" in message


def test_modules_with_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_tables.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "unfinished_tables.py").write_text("def (\n")
    (tmp_path / "no_tables.py").write_text("x = 1\n")
    (tmp_path / "nameless_tables.py").write_text("\norders = source('raw.orders')\n")
    for module, expected in (
        ("broken_tables", "nothing_of_this_name"),
        ("unfinished_tables", r"cannot be loaded.*unfinished_tables.py, line 1\)"),
        ("nameless_tables", r"name 'source' is not defined \(.*/nameless_tables.py, line 2\)"),
        ("no_tables", "No table is declared"),
        ("not_there_at_all", "cannot be loaded"),
    ):
        with pytest.raises(DeclarationError, match=expected):
            graph.load([module])
        sys.modules.pop(module, None)


def test_examine_lists_the_problems_of_all_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop_shared.py").write_text("x = 1 / 0\n")
    (tmp_path / "shop_mart").mkdir()
    files = {
        "__init__": "",
        "first": "import shop_shared\n",
        "second": "import shop_shared\n",
        "third": "from lakehouse import source\nitems = source('raw.items', landing='/x', columns=('id',))\n",
        "fourth": "from lakehouse import Rebuild, table\n"
        "@table('mart.items', columns={'id': 'lnog'}, write=Rebuild(), rows='raw.unloaded')\n"
        "def items(rows): ...\n",
    }
    for name, text in files.items():
        (tmp_path / "shop_mart" / f"{name}.py").write_text(text)
    declared, problems = graph.examine(["shop_mart"])
    assert sorted(declared.declarations) == ["mart.items", "raw.items"]
    assert len(problems) == 3, "an input may be in a module that is not loaded"
    assert problems[0].startswith("The declarations in 'shop_mart.first', 'shop_mart.second' cannot be loaded: ZeroDiv")
    assert sorted(problems[1:])[0].startswith("mart.items: column id has type 'lnog', which is none of Spark SQL's")
    assert sorted(problems[1:])[1].startswith("raw.items: landing='/x' is not a folder below the landing zone")


def test_a_table_imported_twice_is_declared_once() -> None:
    assert len(graph.load(["tests.orders", "tests.orders.clean"]).declarations) == 11


# --- fingerprints ---------------------------------------------------------------------------------------------------

LIMIT = 5
YEARS = range(2000, 2010)
DAY = TextFormat("date", pattern="dd.MM.yyyy")


@cache
def list_years() -> list[int]:
    return list(YEARS)


def helper(rows: DataFrame) -> DataFrame:
    return rows.where(f"id < {LIMIT}").where(F.col("year").isin(list_years())).where(F.col("age") < mart.LOOK_BACK_DAYS)


def first(rows: DataFrame) -> DataFrame:
    """Return the rows of the helper."""
    return helper(rows).where(f"pattern = '{DAY.pattern}'")


def second(rows: DataFrame) -> DataFrame:
    return helper(rows).distinct()


def fingerprint_of(function: Callable[..., DataFrame], **more: Any) -> str:
    options: dict[str, Any] = {"columns": COLUMNS, "write": Rebuild(), "rows": "raw.items", **more}
    return compute_fingerprint(table("mart.items", **options)(function))


def fingerprint_of_code(folder: Path, text: str) -> str:
    """Return the fingerprint of a table with this code as its function."""
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


def test_comments_and_layout_do_not_change_a_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    expected = fingerprint_of_code(tmp_path, "def items(rows):\n    return rows.where('id > 1')\n")
    assert expected == fingerprint_of_code(
        tmp_path, 'def items(rows):\n    """Doc."""\n    # why\n    return rows.where(\n"id > 1",)\n'
    )
    assert expected != fingerprint_of_code(tmp_path, "def items(rows):\n    return rows.where('id > 2')\n")


def test_a_fingerprint_changes_with_code_and_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fingerprint_of(first)
    assert fingerprint_of(first) == expected
    assert fingerprint_of(second) != expected
    assert fingerprint_of(first, write=Append()) != expected
    assert fingerprint_of(first, rules=(Rule("a", "id > 1"),)) not in (
        expected,
        fingerprint_of(first, rules=(Rule("a", "id > 2"),)),
    )
    assert fingerprint_of(first, rows=incremental("raw.items", date_column="day")) != expected
    assert fingerprint_of(first, columns={**COLUMNS, "more": "int"}) != expected
    for place, name, value in (
        (sys.modules[__name__], "LIMIT", 6),
        (sys.modules[__name__], "YEARS", range(2000, 2011)),  # used by a cached function
        (sys.modules[__name__], "DAY", TextFormat("date", pattern="MM.dd.yyyy")),
        (mart, "LOOK_BACK_DAYS", 3),  # used as an attribute of its module
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, value)
            assert fingerprint_of(first) != expected, f"{name} is a constant of a called function"
    assert fingerprint_of(first) == expected


def test_fingerprints_in_parallel_threads() -> None:
    """A garbage collection during parsing lets other threads run, as the release of a JVM's objects does."""

    def let_others_run(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    thresholds = gc.get_threshold()
    expected = fingerprint_of(first)
    gc.callbacks.append(let_others_run)
    gc.set_threshold(10)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert {*threads.map(lambda _: fingerprint_of(first), range(400))} == {expected}
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_others_run)
