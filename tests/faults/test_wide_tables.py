"""Tables of a thousand columns with maps, structs and arrays: three deliveries in each way of writing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

from pyspark.sql import DataFrame

from lakehouse.definitions.rules import Rule
from lakehouse.definitions.sources import ORIGIN_COLUMNS, source
from lakehouse.definitions.tables import incremental, table
from lakehouse.definitions.write_modes import Append, History, Merge, Replace, WriteMode
from lakehouse.deltalog.commit_record import Run
from lakehouse.quality.reconciliation import reconcile
from lakehouse.writes.replay import replay_rejects
from tests.lakes import TestLake, json_lines

Lakes = Callable[..., TestLake]

NESTED = {
    "attrs": "map<string,string>",
    "place": "struct<city:string,tags:array<string>,extra:map<string,int>>",
    "items": "array<struct<sku:string,counts:map<string,int>>>",
}
WIDE = {"id": "bigint", "at": "int", "day": "date", **NESTED, **{f"c{number:03}": "bigint" for number in range(994)}}
ROWS = 20


def record(number: int, at: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a wide record as it lands."""
    nested = {
        "attrs": {"a": str(number), "b": None},
        "place": {"city": "Oslo", "tags": ["x", None], "extra": {"k": 1, "l": 2}},
        "items": [{"sku": "s", "counts": {"x": 1, "y": 2}}, {"sku": None, "counts": {}}],
    }
    narrow = {name: number * 1000 + position for position, name in enumerate(WIDE) if name.startswith("c")}
    return {"id": number, "at": at, "day": f"2024-01-{number:02}", **nested, **narrow, **changes}


def turn(value: Any) -> Any:
    """Return a record with the entries of every object in the other order."""
    if isinstance(value, dict):
        return {name: turn(item) for name, item in reversed(value.items())}
    return [turn(item) for item in value] if isinstance(value, list) else value


def read_value(value: Any, kind: str) -> Any:
    """Return a landed value as a reader of the table sees it."""
    if kind == "date":
        return date.fromisoformat(value)
    if kind.startswith("map"):
        return [*value.items()]
    if kind.startswith("struct"):
        return {**value, "extra": [*value["extra"].items()]}
    if kind.startswith("array"):
        return [{**item, "counts": [*item["counts"].items()]} for item in value]
    return value


def read_record(landed: dict[str, Any], *further: Any) -> tuple[Any, ...]:
    return (*[read_value(landed[name], kind) for name, kind in WIDE.items()], *further)


landed_wide = source("raw.wide", landing="wide", columns=WIDE, format="json")


def declare(name: str, write: WriteMode, **more: Any) -> Any:
    def copy(wide: DataFrame) -> DataFrame:
        """One row per landed row."""
        return wide.select(*WIDE, *[c for c in ORIGIN_COLUMNS if not isinstance(write, Replace)])

    return table(name, columns=WIDE, write=write, **{"wide": "raw.wide", **more})(copy)


MERGED = declare("clean.merged", Merge(newest_by=("at",)), key=("id",))
HISTORY = declare("clean.history", History(effective_column="at"), key=("id",))
LOG = declare("clean.log", Append())
DAYS = declare("mart.days", Replace("day"), wide=incremental("clean.merged", date_column="day"))


def test_wide_tables_take_three_deliveries(make_lake: Lakes) -> None:
    lake = make_lake(landed_wide, MERGED, HISTORY, LOG, DAYS)
    first = {number: record(number) for number in range(1, ROWS + 1)}
    lake.land("raw.wide", "1.json", json_lines(*first.values()))
    lake.run()
    assert lake.rows("clean.merged") == lake.rows("mart.days") == [*map(read_record, first.values())]

    # One of a thousand values, an entry of a map in a struct, and a row that differs only in the order of its maps.
    seventh = record(7, 2, c500=None)
    eighth = record(8, 2, place={"city": "Oslo", "tags": ["x", None], "extra": {"k": 1, "l": 3}})
    lake.land("raw.wide", "2.json", json_lines(seventh, eighth, turn(first[9])))
    second = lake.run()
    counts = {"written": 2, "unchanged": 1, "superseded": 0, "quarantined": 0}
    assert second.counts("clean.merged") == counts
    assert second.counts("clean.history") == {"written": 5, "unchanged": 17, "superseded": 1, "quarantined": 0}
    assert second["mart.days"].step.partitions == (date(2024, 1, 7), date(2024, 1, 8))
    rows = first | {7: seventh, 8: eighth}
    assert lake.rows("clean.merged") == lake.rows("mart.days") == [*map(read_record, rows.values())]

    twenty_first = record(21)
    ninth = turn(record(9, 3, items=[{"sku": "s", "counts": {"x": 1}}]))
    lake.land("raw.wide", "3.json", json_lines(ninth, turn(record(7, 3, c500=None)), twenty_first))
    third = lake.run()
    assert third.counts("clean.merged") == {"written": 3, "unchanged": 0, "superseded": 0, "quarantined": 0}
    rows |= {7: turn(record(7, 3, c500=None)), 9: ninth, 21: twenty_first}
    assert lake.rows("clean.merged") == lake.rows("mart.days") == [*map(read_record, rows.values())]
    delivered = [*first.values(), seventh, eighth, turn(first[9]), ninth, turn(record(7, 3, c500=None)), twenty_first]
    assert sorted(lake.rows("clean.log", *WIDE), key=str) == sorted(map(read_record, delivered), key=str)
    versions = [read_record(landed, 1, None, True) for number, landed in rows.items() if number not in (7, 8, 9)]
    versions += [
        read_record(first[7], 1, 2, False),
        read_record(seventh, 2, None, True),
        read_record(first[8], 1, 2, False),
        read_record(eighth, 2, None, True),
        read_record(turn(first[9]), 1, 3, False),
        read_record(ninth, 3, None, True),
    ]
    assert lake.rows("clean.history") == sorted(versions, key=lambda row: (row[0], row[1]))
    assert [result.differences for result in reconcile(lake.lake)] == [()] * 4


KINDS = {"id": "bigint", "at": "int", **NESTED}
landed_kinds = source("raw.kinds", landing="kinds", columns=KINDS, format="json")


def declare_kinds(write: WriteMode, function: Any = None, **more: Any) -> Any:
    def copy(kinds: DataFrame) -> DataFrame:
        """One row per landed row."""
        return kinds.select(*KINDS, *ORIGIN_COLUMNS)

    return table("clean.kinds", columns=KINDS, write=write, key=("id",), **{"kinds": "raw.kinds", **more})(copy)


def kind(number: int, at: int, **attrs: Any) -> dict[str, Any]:
    return {"id": number, "at": at, "attrs": attrs, "place": None, "items": None}


def test_withdrawn_maps_restore_the_earlier_ones(make_lake: Lakes) -> None:
    withdrawable = source("raw.kinds", landing="kinds", columns=KINDS, format="json", on_redelivery="replace")
    lake = make_lake(withdrawable, declare_kinds(Merge(newest_by=("at",))))
    lake.land("raw.kinds", "1.json", json_lines(kind(1, 1, a="1", b="2"), kind(2, 1, c="3")))
    lake.run()
    lake.land("raw.kinds", "2.json", json_lines(kind(1, 2, a="9"), kind(2, 2, c="4")))
    lake.run()
    lake.land("raw.kinds", "2.json", json_lines(kind(2, 2, c="4", d="5")))
    lake.run()
    assert lake.rows("clean.kinds", "id", "attrs") == [(1, [("a", "1"), ("b", "2")]), (2, [("c", "4"), ("d", "5")])]


def test_snapshots_with_maps_make_versions(make_lake: Lakes) -> None:
    lake = make_lake(landed_kinds, declare_kinds(History(effective_column="at", has_snapshots=True)))
    for number, rows in enumerate(
        (
            [kind(1, 1, a="1", b="2"), kind(2, 1, c="3")],
            [kind(1, 2, b="2", a="1"), kind(2, 2, c="4")],
            [kind(1, 3, a="1")],
        )
    ):
        lake.land("raw.kinds", f"{number}.json", json_lines(*rows))
        lake.run()
    assert lake.rows("clean.kinds", "id", "attrs", "valid_from", "valid_to") == [
        (1, [("a", "1"), ("b", "2")], 1, 3),
        (1, [("a", "1")], 3, None),
        (2, [("c", "3")], 1, 2),
        (2, [("c", "4")], 2, 3),
    ]


def test_rejects_with_maps_are_replayed(make_lake: Lakes) -> None:
    strict = Rule("has_an_attribute", "size(attrs) = 1")
    lake = make_lake(landed_kinds, declare_kinds(Merge(newest_by=("at",)), rules=(strict,)))
    lake.land("raw.kinds", "1.json", json_lines(kind(1, 1, a="1"), kind(2, 1, a="1", b=None)))
    lake.run()
    second = kind(3, 1, b="2", a="1") | {"place": {"city": "Rom", "tags": [], "extra": {"k": 1}}}
    lake.land("raw.kinds", "2.json", json_lines(second, second, kind(1, 2, a="1", b="2")))
    lake.run()
    assert len(lake.quarantine("clean.kinds")) == 4
    relaxed = lake.with_tables(landed_kinds, declare_kinds(Merge(newest_by=("at",))))
    result = replay_rejects(relaxed.engine, relaxed.lake, "clean.kinds", Run("replay", "revision"))
    assert (result.replayed, result.discarded) == (3, {"a newer reject of its key was replayed": 1})
    place = {"city": "Rom", "tags": [], "extra": [("k", 1)]}
    assert relaxed.rows("clean.kinds", "id", "attrs", "place") == [
        (1, [("a", "1"), ("b", "2")], None),
        (2, [("a", "1"), ("b", None)], None),
        (3, [("b", "2"), ("a", "1")], place),
    ]


MAPS = {"id": "bigint", "attrs": "map<string,string>", "note": "string"}
landed_maps = source("raw.maps", landing="j12", columns=MAPS, format="json")


@table("clean.maps", columns=MAPS, key=("id",), write=Merge(), maps="raw.maps")
def maps(maps: DataFrame) -> DataFrame:
    """One row per id."""
    return maps.select(*MAPS, *ORIGIN_COLUMNS)


def test_a_map_is_merged_in_each_delivery(make_lake: Lakes) -> None:
    lake = make_lake(landed_maps, maps)
    lake.land("raw.maps", "a.json", '{"id":1,"attrs":{"a":"1"},"note":"x"}\n{"id":2,"attrs":{"b":"2"},"note":"y"}\n')
    lake.run()
    lake.land("raw.maps", "b.json", '{"id":1,"attrs":{"a":"9"},"note":"x2"}\n')
    lake.run()
    assert lake.rows("clean.maps") == [(1, [("a", "9")], "x2"), (2, [("b", "2")], "y")]
    lake.land("raw.maps", "c.json", '{"id":2,"attrs":null,"note":"y"}\n{"id":1,"attrs":{"a":"9"},"note":"x2"}\n')
    results = lake.run()
    assert results.counts("clean.maps") == {"written": 1, "unchanged": 1, "superseded": 0, "quarantined": 0}
    assert lake.rows("clean.maps") == [(1, [("a", "9")], "x2"), (2, None, "y")]
