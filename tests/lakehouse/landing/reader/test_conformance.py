"""Files with other columns than declared are read as the contract says, and every change is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import ORIGIN_COLUMNS, Source, source
from lakehouse.definitions.tables import table
from lakehouse.definitions.write_modes import Append, Merge, Rebuild
from lakehouse.plan.steps import RunRequest
from lakehouse.spark import parse, unparsed
from tests.lakes import ITEM_TYPES, TestLake, items_csv, items_table, json_lines, parquet

Lakes = Callable[..., TestLake]
STRICT = Contract()


def items(contract: Contract = STRICT, **more: Any) -> Source:
    return source("raw.items", landing="items", columns=tuple(ITEM_TYPES), contract=contract, **more)


def rescued_rows(lake: TestLake, *columns: str) -> list[tuple[Any, ...]]:
    """Read the landed items, with the rescued values parsed from JSON."""
    rows = lake.rows("raw.items", *columns, "_rescued")
    return [(*row, json.loads(text) if text else None) for *row, text in rows]


def test_csv_columns_are_rescued_and_read_by_name(make_lake: Lakes) -> None:
    lake = make_lake(items(Contract(new_column="rescue", missing_column="ignore")), items_table())
    lake.land("raw.items", "a.csv", items_csv("1,1,1"))
    lake.land("raw.items", "b.csv", 'gate,value,id,at,"a, ""b"""\nA5,2,2,2,x\n,3,3,3,\n')
    lake.land("raw.items", "c.csv", "id,ID,value\n4,IV,4\n")
    step = lake.plan()["raw.items"]
    assert step.drift == (
        "keeps gate in _rescued (1 file)",
        'keeps a, "b" in _rescued (1 file)',
        "keeps ID (differs from id only in case) in _rescued (1 file)",
        "leaves at null, as the files lack it (1 file)",
    )
    assert step.changed_columns == ("at",)
    results = lake.run()
    assert results["raw.items"].outcome.contract == step.drift  # type: ignore[union-attr]
    assert lake.record("raw.items").column_changes == step.drift
    assert rescued_rows(lake, "id", "at", "value", "_row") == [
        ("1", "1", "1", 1, None),
        ("2", "2", "2", 1, {"gate": "A5", 'a, "b"': "x"}),
        ("3", "3", "3", 2, None),
        ("4", None, "4", 1, {"ID": "IV", "_missing": ["at"]}),
    ]
    assert lake.rows("clean.items") == [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, None, 4)]
    lake.run(full_refresh=True)
    assert len(rescued_rows(lake, "id")) == 4


def test_new_columns_are_added_with_their_first_type(make_lake: Lakes) -> None:
    fields = {"id": pa.int64(), "at": pa.int32()}
    declared = source(
        "raw.items",
        landing="items",
        columns={"id": "bigint", "at": "int"},
        format="parquet",
        contract=Contract(new_column="add", changed_type="rescue"),
    )
    lake = make_lake(declared)
    lake.land("raw.items", "a", parquet([(1, 1)], pa.schema(fields)))
    lake.run()
    lake.land("raw.items", "b", parquet([(2, 2, 7)], pa.schema({**fields, "gate": pa.int32()})))
    texts = pa.schema({"id": pa.int64(), "at": pa.string(), "Gate": pa.string()})
    lake.land("raw.items", "c", parquet([(3, "3", "A5"), (4, "four", "8")], texts))
    lake.run()
    assert lake.open_log("raw.items").read_columns()["gate"] == "int"
    assert "adds gate int (1 file)" in lake.record("raw.items").column_changes
    lake.land("raw.items", "d", parquet([(5, 5, "9"), (6, 6, "A6")], pa.schema({**fields, "gate": pa.string()})))
    assert not lake.plan()["raw.items"].is_breaking
    lake.run()
    expected = [
        (1, 1, None, None),
        (2, 2, 7, None),
        (3, 3, None, {"Gate": "A5"}),
        (4, None, None, {"at": "four", "Gate": "8"}),
        (5, 5, 9, None),
        (6, 6, None, {"gate": "A6"}),
    ]
    assert rescued_rows(lake, "id", "at", "gate") == expected
    lake.run(full_refresh=True)
    assert rescued_rows(lake, "id", "at", "gate") == expected, "a rebuild gives the same rows"
    assert lake.plan()["raw.items"].schema_changes.describe() == ()


LOSSY = [
    ("1.5", pa.string(), None, "1.5"),
    (3.0, pa.float64(), 3, None),
    (3.7, pa.float64(), None, "3.7"),
    (2**40, pa.int64(), None, str(2**40)),
    (7, pa.int64(), 7, None),
    (float("nan"), pa.float64(), None, "NaN"),
    (True, pa.bool_(), None, "true"),
    (datetime(2024, 1, 1), pa.timestamp("us"), None, "2024-01-01 00:00:00"),
    ([1, 2], pa.list_(pa.int64()), None, "[1,2]"),
    (b"\x01", pa.binary(), None, "AQ=="),
    (None, pa.string(), None, None),
    (None, pa.null(), None, None),
    (
        {"at": datetime(2024, 1, 1, 12, 0, 0, 123456), "b": None},
        pa.struct({"at": pa.timestamp("us"), "b": pa.int64()}),
        None,
        '{"at":"2024-01-01T12:00:00.123456Z","b":null}',
    ),
]


def test_a_changed_type_is_cast_without_loss(make_lake: Lakes) -> None:
    declared = source(
        "raw.items",
        landing="items",
        columns={"id": "int", "value": "int"},
        format="parquet",
        contract=Contract(changed_type="rescue"),
    )
    lake = make_lake(declared)
    for number, (value, kind, *_) in enumerate(LOSSY):
        schema = pa.schema({"id": pa.int32(), "value": kind})
        lake.land("raw.items", f"{number:02}", parquet([(number, value)], schema))
    lake.run()
    assert rescued_rows(lake, "id", "value") == [
        (number, value, {"value": text} if text else None) for number, (_, _, value, text) in enumerate(LOSSY)
    ]


ODD = ("_row", "_path", "_metadata", "_Malformed", "_rescued", "_at_0", "_c0", "x.y", "a`b")


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_columns_of_any_name_are_rescued(make_lake: Lakes, format: Any) -> None:
    declared = source("raw.items", landing="items", columns=("id",), format=format, contract=Contract(new_column="add"))
    lake = make_lake(declared)
    row = {"id": "1", **{name: f"it is {name}" for name in ODD}}
    content = {
        "csv": ",".join(row) + "\n" + ",".join(row.values()) + "\n",
        "json": json_lines(row),
        "parquet": parquet([tuple(row.values())], pa.schema({name: pa.string() for name in row})),
    }
    lake.land("raw.items", "a", content[format])
    lake.run()
    assert lake.open_log("raw.items").read_columns().keys() == {"id", *declared.platform_columns}
    assert rescued_rows(lake, "id", "_row") == [("1", 1, {name: row[name] for name in ODD})]


def test_columns_without_values_or_of_unsupported_types(make_lake: Lakes) -> None:
    declared = source(
        "raw.items",
        landing="items",
        columns={"id": "int", "value": "int"},
        format="parquet",
        contract=Contract(new_column="add"),
    )
    lake = make_lake(declared)
    fields = {"id": pa.int32(), "value": pa.null()}
    lake.land("raw.items", "a", parquet([(1, None, None)], pa.schema({**fields, "more": pa.null()})))
    lake.land("raw.items", "b", parquet([(2, None, 5)], pa.schema({**fields, "more": pa.int32()})))
    lake.land(
        "raw.items", "c", parquet([(3, None, {"a-b": 1})], pa.schema({**fields, "odd": pa.struct({"a-b": pa.int32()})}))
    )
    lake.land("raw.items", "d", parquet([(4, None, 1)], pa.schema({**fields, "odd": pa.uint32()})))
    assert len(lake.plan()["raw.items"].files) == 4
    lake.run()
    assert rescued_rows(lake, "id", "value", "more") == [(1, None, None, None), (2, None, 5, None)]
    assert {*lake.rejected("raw.items")} == {"c", "d"}
    lake.run(full_refresh=True)
    assert rescued_rows(lake, "id", "value", "more") == [(1, None, None, None), (2, None, 5, None)]


def test_ambiguous_json_files_are_rejected(make_lake: Lakes) -> None:
    lake = make_lake(items(format="json"), items_table())
    whole = json_lines({"id": "1", "at": "1", "value": "1"})
    for name, line in (("list", '[{"id": "2", "zz": 2}]'), ("two", '{"id": "3"} {"id": "4"}')):
        lake.land("raw.items", name, f"{whole}{line}\n")
    lake.land("raw.items", "quotes", f"{whole}{{'id': '5', 'zz': 2}}\n\"text\"\n")
    lake.run()
    assert {*lake.rejected("raw.items")} == {"list", "two"}
    assert lake.rows("clean.items") == [(1, 1, 1)]
    assert len(lake.quarantine("clean.items")) == 2


def test_undeclared_json_keys_are_rescued_unchanged(make_lake: Lakes) -> None:
    declared = items(Contract(new_column="rescue"), format="json")
    lake = make_lake(declared)
    lake.land("raw.items", "a.json", json_lines({"id": "1", "more": {"a": [1, 2]}, "ID": 3}, {"id": "2"}) + "{broken\n")
    lake.run()
    assert rescued_rows(lake, "id", "_malformed") == [
        (None, "{broken", None),
        ("1", None, {"more": '{"a": [1, 2]}', "ID": "3"}),
        ("2", None, None),
    ]


def test_without_a_contract_other_columns_are_rejected(make_lake: Lakes) -> None:
    lake = make_lake(items(), items_table())
    lake.land("raw.items", "a.csv", items_csv("1,1,1"))
    lake.land("raw.items", "b.csv", "id,at,value,gate\n2,1,1,A5\n")
    assert lake.plan()["raw.items"].drift == ("rejects items/b.csv: has an unknown column gate",)
    lake.run()
    assert lake.rejected("raw.items") == {"b.csv": "has an unknown column gate"}
    more = lake.with_tables(items(Contract(new_column="add")), items_table())
    assert [file.path for file in more.plan()["raw.items"].files] == ["items/b.csv"], "another contract checks it again"
    more.run()
    assert more.rows("raw.items", "id", "gate") == [("1", None), ("2", "A5")]
    assert more.rows("clean.items") == [(1, 1, 1), (2, 1, 1)]
    assert lake.with_tables(items(), items_table()).plan()["raw.items"].schema_changes.describe() == ("removes gate",)


def test_rows_with_rescued_values_are_replayed(make_lake: Lakes) -> None:
    from lakehouse.definitions.rules import Rule
    from lakehouse.deltalog.commit_record import Run
    from lakehouse.writes.replay import replay_rejects

    contract = Contract(new_column="rescue")
    strict = items_table(rules=(Rule("small", "value < 5"),))
    lake = make_lake(items(contract), strict)
    lake.land("raw.items", "a.csv", "id,at,value,gate\n1,1,9,A5\n2,1,1,A6\n")
    lake.run()
    assert [original["_rescued"] for original in lake.originals("clean.items")] == ['{"gate":"A5"}']
    eased = lake.with_tables(items(contract), items_table(rules=(Rule("small", "value < 50"),)))
    assert replay_rejects(eased.engine, eased.lake, "clean.items", Run("replay", "")).replayed == 1
    assert lake.rows("clean.items") == [(1, 1, 9), (2, 1, 1)]


def test_columns_that_a_contract_added_are_replayed(make_lake: Lakes) -> None:
    from lakehouse.definitions.rules import Rule
    from lakehouse.deltalog.commit_record import Run
    from lakehouse.writes.replay import replay_rejects

    def gates(limit: int) -> Any:
        def read(items: DataFrame) -> DataFrame:
            gate = F.col("gate").cast("int") if "gate" in items.columns else F.lit(None).cast("int")
            types = {"id": "bigint", "at": "int"}
            return items.select(*[parse(c, k).alias(c) for c, k in types.items()], gate.alias("value"), *ORIGIN_COLUMNS)

        return items_table(function=read, rules=(Rule("small", f"value < {limit}"),))

    contract = Contract(new_column="add")
    lake = make_lake(items(contract), gates(5))
    lake.land("raw.items", "a.csv", "id,at,value,gate\n1,1,0,9\n2,1,0,1\n")
    lake.run()
    assert lake.rows("clean.items") == [(2, 1, 1)]
    eased = lake.with_tables(items(contract), gates(50))
    replay_rejects(eased.engine, eased.lake, "clean.items", Run("replay", ""))
    assert lake.rows("clean.items") == [(1, 1, 9), (2, 1, 1)]


def of_type(kind: str, name: str = "clean.items", write: Any = None) -> Any:
    types = {**ITEM_TYPES, "value": kind}

    def parse_items(items: DataFrame) -> DataFrame:
        return items.select(*[parse(c, k).alias(c) for c, k in types.items()], unparsed(types), *ORIGIN_COLUMNS)

    declare = table(name, columns=types, write=write or Merge(newest_by=("at",)), key=("id",), items="raw.items")
    return declare(parse_items)


def total(kind: str) -> Any:
    @table("mart.total", columns={"total": "bigint"}, write=Rebuild(), items="clean.items")
    def total(items: DataFrame) -> DataFrame:
        return items.agg(F.sum("value").cast("bigint").alias("total"))

    return total


def test_a_planned_rebuild_widens_a_type(make_lake: Lakes) -> None:
    narrow = make_lake(items(), of_type("int"), total("int"))
    narrow.land("raw.items", "a.csv", items_csv("1,1,1", f"2,1,{2**40}"))
    narrow.run()
    assert narrow.rows("clean.items") == [(1, 1, 1)]
    wide = narrow.with_tables(items(), of_type("bigint"), total("bigint"))
    steps = wide.plan()
    step = steps["clean.items"]
    assert (step.action, step.is_full_refresh, step.is_breaking) == ("build", True, False)
    assert step.reasons == ("a column's type is widened",)
    assert step.schema_changes.describe() == ("widens value from int to bigint",)
    assert step.changed_columns == ("value",)
    assert steps["mart.total"].reasons == ("clean.items will be rebuilt",)
    wide.run()
    assert wide.rows("clean.items") == [(1, 1, 1), (2, 1, 2**40)]
    assert wide.rows("mart.total") == [(2**40 + 1,)]
    assert wide.record("clean.items").column_changes == ("widens value from int to bigint",)
    assert wide.record("clean.items").generation == 2
    assert set(wide.run().statuses.values()) == {"unchanged"}
    assert narrow.plan()["clean.items"].is_breaking, "a type is not narrowed without a full refresh"


def test_tables_that_cannot_be_rebuilt_are_not_widened(make_lake: Lakes) -> None:
    def events(kind: str) -> Any:
        @table("mart.events", columns={"id": "bigint", "value": kind}, write=Append(), items="clean.items")
        def events(items: DataFrame) -> DataFrame:
            return items.select("id", F.col("value").cast(kind).alias("value"))

        return events

    lake = make_lake(items(), items_table(), events("int"))
    lake.land("raw.items", "a.csv", items_csv("1,1,1"))
    lake.run()
    wide = lake.with_tables(items(), items_table(), events("bigint"))
    assert wide.plan()["mart.events"].is_breaking
    above = lake.with_tables(items(), of_type("bigint"), events("int"))
    assert above.plan()["clean.items"].is_breaking, "its reader would have to be rebuilt, too"
    assert not wide.plan("mart.events", request=RunRequest(frozenset({"mart.events"})))["mart.events"].is_breaking


@pytest.mark.parametrize(("kind", "wider"), [("int", "bigint"), ("float", "double")])
def test_a_source_type_is_widened_from_its_files(make_lake: Lakes, kind: str, wider: str) -> None:
    def of(declared: str) -> Source:
        return source("raw.items", landing="items", columns={"id": declared}, format="parquet")

    arrow = {"int": pa.int32(), "float": pa.float32()}[kind]
    lake = make_lake(of(kind))
    file = lake.land("raw.items", "a", parquet([(1,)], pa.schema({"id": arrow})))
    lake.run()
    wide = lake.with_tables(of(wider))
    assert wide.plan()["raw.items"].is_full_refresh
    file.rename(file.with_name("_a"))
    assert "a full refresh would lose rows" in wide.attempt().errors["raw.items"]
    file.with_name("_a").rename(file)
    wide.run()
    assert wide.open_log("raw.items").read_columns()["id"] == wider
    assert len(wide.rows("raw.items", "id")) == 1
