"""Landed files after public bug reports, from the landing zone to the rows of bronze, over several deliveries."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.errors import DeclarationError
from lakehouse.quality.reconciliation import reconcile
from tests.lakes import TestLake, parquet

Lakes = Callable[..., TestLake]
Row = tuple[Any, ...]
MIDNIGHT = datetime(2024, 1, 1, tzinfo=UTC)


def declare(columns: Any, **more: Any) -> Source:
    return source("raw.case", landing="case", columns=columns, **more)


def deliver(lake: TestLake, files: Mapping[str, str | bytes]) -> None:
    """Land the files of one delivery, and run."""
    for name, content in files.items():
        lake.land("raw.case", name, content)
    lake.run()


def read_rows(lake: TestLake) -> dict[str, list[Row]]:
    """Return the rows of each file in their order: the columns of the files, and those of the platform that vary."""
    names = [c for c in lake.open_log("raw.case").read_columns() if c not in ("_file_id", "_ingested_at")]
    rows = [dict(zip(names, row, strict=True)) for row in lake.rows("raw.case", *names)]
    files: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["_batch_id"], row["_source_file"], row["_row"])):
        name = row.pop("_source_file").removeprefix("case/")
        files.setdefault(f"{row.pop('_batch_id')}/{name}", []).append(tuple(row.values()))
    return files


# --- 01: Parquet with nanoseconds (ClickHouse/clickhouse-java#1161) --------------------------------------------------

PAYMENT_TYPES = {"id": "bigint", "at": "timestamp", "amount": "double"}


def payments(unit: str, *rows: Row) -> bytes:
    return parquet(rows, pa.schema({"id": pa.int64(), "at": pa.timestamp(unit), "amount": pa.float64()}))


START = 1_704_067_200_000_000_000
LOSSY = payments("ns", (1, START + 1, 1.0), (2, START + 2_000, 2.0))
GOOD = payments("us", (3, datetime(2024, 1, 1), 3.0))
WHOLE = payments("ns", (4, START + 5_000, 4.0), (5, None, None))


def test_files_with_nanoseconds_block_no_other(make_lake: Lakes) -> None:
    lake = make_lake(declare(PAYMENT_TYPES, format="parquet"))
    deliver(lake, {"a.parquet": LOSSY, "b.parquet": GOOD})
    first = {"1/b.parquet": [(3, MIDNIGHT, 3.0, 1)]}
    assert read_rows(lake) == first
    deliver(lake, {"c.parquet": WHOLE, "d.parquet": LOSSY})
    assert read_rows(lake) == {
        **first,
        "2/c.parquet": [(4, MIDNIGHT.replace(microsecond=5), 4.0, 1), (5, None, None, 2)],
    }
    reason = "has at=2024-01-01 00:00:00.000000001 in row 1, which timestamp cannot hold"
    assert lake.rejected("raw.case") == {"a.parquet": reason, "d.parquet": reason}
    assert set(lake.run().statuses.values()) == {"unchanged"}


def test_nanoseconds_are_rescued_where_declared(make_lake: Lakes) -> None:
    lake = make_lake(declare(PAYMENT_TYPES, format="parquet", contract=Contract(changed_type="rescue")))
    deliver(lake, {"a.parquet": LOSSY, "b.parquet": GOOD})
    deliver(lake, {"c.parquet": WHOLE, "a.parquet": payments("ns", (1, START + 7, 9.0))})
    assert read_rows(lake) == {
        "1/a.parquet": [
            (1, None, 1.0, '{"at":"2024-01-01 00:00:00.000000001"}', 1),
            (2, MIDNIGHT.replace(microsecond=2), 2.0, None, 2),
        ],
        "1/b.parquet": [(3, MIDNIGHT, 3.0, None, 1)],
        "2/a.parquet": [(1, None, 9.0, '{"at":"2024-01-01 00:00:00.000000007"}', 1)],
        "2/c.parquet": [(4, MIDNIGHT.replace(microsecond=5), 4.0, None, 1), (5, None, None, None, 2)],
    }
    assert lake.rejected("raw.case") == {}


# --- 03: Parquet times without a zone (apache/spark#34495) -----------------------------------------------------------

LOCAL = datetime(2024, 3, 31, 2, 30)  # does not exist in Berlin


def local_times(*rows: Row, more: Mapping[str, pa.DataType] | None = None) -> bytes:
    return parquet(rows, pa.schema({"id": pa.int64(), "at": pa.timestamp("us"), **(more or {})}))


def test_times_without_zone_are_committed_and_appended(make_lake: Lakes) -> None:
    columns = {"id": "bigint", "at": "timestamp_ntz"}
    lake = make_lake(declare(columns, format="parquet"))
    for number in (1, 2, 3):
        deliver(lake, {f"{number}.parquet": local_times((number, LOCAL), (number, None))})
    rows = {f"{number}/{number}.parquet": [(number, LOCAL, 1), (number, None, 2)] for number in (1, 2, 3)}
    assert read_rows(lake) == rows
    assert lake.open_log("raw.case").read_columns()["at"] == "timestamp_ntz"
    lake.run(full_refresh=True)
    assert [row for rows in read_rows(lake).values() for row in rows] == [row for of in rows.values() for row in of]


@pytest.mark.parametrize("first", [{"id": "bigint"}, {"id": "bigint", "at": "timestamp_ntz"}])
def test_a_time_without_zone_becomes_a_column(make_lake: Lakes, first: dict[str, str]) -> None:
    """The first such column changes the table's protocol, and a further one does not."""
    lake = make_lake(declare(first, format="parquet"))
    base = {"id": pa.int64(), **({"at": pa.timestamp("us")} if "at" in first else {})}
    deliver(lake, {"1.parquet": parquet([(1, LOCAL)] if "at" in first else [(1,)], pa.schema(base))})
    wider = lake.with_tables(declare({**first, "seen": "timestamp_ntz"}, format="parquet"))
    for number in (2, 3):
        row = (number, *([LOCAL] if "at" in first else []), LOCAL.replace(hour=number))
        schema = pa.schema({**base, "seen": pa.timestamp("us")})
        deliver(wider, {f"{number}.parquet": parquet([row], schema)})
    at = (LOCAL,) if "at" in first else ()
    columns = [*first, "seen", "_row"]
    assert wider.rows("raw.case", *columns) == [
        (1, *at, None, 1),
        (2, *at, LOCAL.replace(hour=2), 1),
        (3, *at, LOCAL.replace(hour=3), 1),
    ]
    assert wider.rejected("raw.case") == {}


# --- 05: JSON values that are not of their type (apache/spark#42380, #37147, #7353) -----------------------------------

EVENT_TYPES = {
    "id": "bigint",
    "at": "timestamp",
    "day": "date",
    "amount": "decimal(10,2)",
    "level": "tinyint",
    "note": "string",
}
WRONG = {
    2: {"at": 1704103200000, "note": "epoch ms"},
    3: {"at": 1704103200, "note": "epoch s"},
    4: {"day": "20240131", "note": "compact date"},
    5: {"day": "45292", "note": "excel serial"},
    6: {"amount": 1.239, "note": "3 decimals"},
    7: {"level": 200, "note": "200 in tinyint"},
    8: {"at": "12:30:00", "note": "time only"},
    9: {"at": "2024", "day": "2024", "amount": "1.239", "note": "year only, amount as text"},
    10: {"day": "2024-01-01T23:30:00-05:00", "note": "day with zone"},
    11: {"at": "2024-01-01T10:00:00.123456789Z", "note": "nanos"},
    12: {"day": "2024-01-01 xyz", "note": "day with tail"},
    13: {"note": 9007199254740994.0},
}


def event(number: int, **changed: Any) -> str:
    plain = {"at": "2024-01-01T10:00:00Z", "day": "2024-01-01", "amount": 1.25, "level": 1, "note": "plain"}
    return json.dumps({"id": number, **plain, **changed})


def test_json_values_of_other_types_are_malformed(make_lake: Lakes) -> None:
    lake = make_lake(declare(EVENT_TYPES, format="json"))
    wrong = [event(number, **values) for number, values in WRONG.items()]
    deliver(lake, {"v.json": "\n".join([event(1), *wrong]) + "\n"})
    deliver(lake, {"w.json": "\n".join([*reversed(wrong), event(14)]) + "\n"})
    good = (MIDNIGHT.replace(hour=10), date(2024, 1, 1), Decimal("1.25"), 1, "plain", None)
    nothing = (None,) * len(EVENT_TYPES)
    assert read_rows(lake) == {
        "1/v.json": [(1, *good, 1), *((*nothing, text, row) for row, text in enumerate(wrong, start=2))],
        "2/w.json": [*((*nothing, text, row) for row, text in enumerate(reversed(wrong), start=1)), (14, *good, 13)],
    }


# --- 07: JSON keys within objects (risingwavelabs/risingwave#13384) --------------------------------------------------

NESTED_TYPES = {
    "id": "bigint",
    "address": "struct<city:string,zip:string>",
    "items": "array<struct<sku:string,qty:int>>",
}
OLD = '{"id":1,"address":{"city":"A","zip":"01234"},"items":[{"sku":"s1","qty":1}]}\n'
NEW = (
    '{"id":2,"address":{"city":"B","zip":"02345","country":"DE"},"items":[{"sku":"s1","qty":1,"discount":0.5}]}\n'
    '{"id":3,"address":{"City":"C","zip":"1"},"items":[]}\n'
)
OLD_ROW = (1, {"city": "A", "zip": "01234"}, [{"sku": "s1", "qty": 1}], None)


def test_new_nested_keys_reject_their_file(make_lake: Lakes) -> None:
    lake = make_lake(declare(NESTED_TYPES, format="json"))
    deliver(lake, {"new.json": NEW, "old.json": OLD})
    deliver(lake, {"newer.json": OLD + NEW, "older.json": OLD})
    assert read_rows(lake) == {"1/old.json": [(*OLD_ROW, 1)], "2/older.json": [(*OLD_ROW, 1)]}
    reason = (
        "has an unknown column address.country; has an unknown column items.discount; "
        "has an unknown column address.City"
    )
    assert lake.rejected("raw.case") == {"new.json": reason, "newer.json": reason}


def test_new_nested_keys_are_rescued_by_path(make_lake: Lakes) -> None:
    lake = make_lake(declare(NESTED_TYPES, format="json", contract=Contract(new_column="rescue")))
    deliver(lake, {"new.json": NEW})
    deliver(lake, {"old.json": OLD + NEW})
    rescued = [
        (
            2,
            {"city": "B", "zip": "02345"},
            [{"sku": "s1", "qty": 1}],
            None,
            '{"address.country":"DE","items[0].discount":"0.5"}',
        ),
        (3, {"city": None, "zip": "1"}, [], None, '{"address.City":"C"}'),
    ]
    assert read_rows(lake) == {
        "1/new.json": [(*row, number) for number, row in enumerate(rescued, start=1)],
        "2/old.json": [(*OLD_ROW, None, 1), *((*row, number) for number, row in enumerate(rescued, start=2))],
    }


# --- 08: pretty-printed JSON (apache/spark#18731, NVIDIA/cudf#10267) ------------------------------------------------


def pretty(*notes: tuple[int, str]) -> str:
    return "".join(json.dumps({"id": number, "note": note}, indent=2) + "\n" for number, note in notes)


def test_pretty_json_has_every_row(make_lake: Lakes) -> None:
    lake = make_lake(declare({"id": "bigint", "note": "string"}, format="json"))
    deliver(lake, {"pretty.json": pretty((1, "a"), (2, "b"), (3, "c"))})
    mixed = '{"id": 4, "note": "d"}\n' + pretty((5, "e"), (6, "f"))
    separator = '{"id": 7, "note": "\u2028"}\n{"id": 8\n'
    cut = pretty((1, "x"), (2, "y"))[:-4]
    deliver(lake, {"one.json": pretty((9, "z")), "mixed.json": mixed, "separator.json": separator, "cut.json": cut})
    assert read_rows(lake) == {
        "1/pretty.json": [(1, "a", None, 1), (2, "b", None, 2), (3, "c", None, 3)],
        "2/mixed.json": [(4, "d", None, 1), (5, "e", None, 2), (6, "f", None, 3)],
        "2/one.json": [(9, "z", None, 1)],
        "2/separator.json": [(7, "\u2028", None, 1), (None, None, '{"id": 8', 2)],
    }
    assert [*lake.rejected("raw.case")] == ["cut.json"]
    [account] = reconcile(lake.lake)
    assert (account.row_counts, account.differences) == ({"files": 4, "rows": 9}, ())


# --- 09: mixed line ends in CSV (databricks/spark-csv#465) -----------------------------------------------------------


def test_line_ends_change_no_value(make_lake: Lakes) -> None:
    lake = make_lake(declare(("id", "qty", "code")))
    deliver(lake, {"lf_header.csv": "id,qty,code\n1,5,AA\r\n2,6,BB\r\n3,7,\r\n4,8,AA\n"})
    deliver(lake, {"crlf_header.csv": "id,qty,code\r\n11,5,DD\n12,6,EE\r\n", "cr.csv": "id,qty,code\r13,7,FF\r"})
    assert read_rows(lake) == {
        "1/lf_header.csv": [
            ("1", "5", "AA", None, 1),
            ("2", "6", "BB", None, 2),
            ("3", "7", None, None, 3),
            ("4", "8", "AA", None, 4),
        ],
        "2/cr.csv": [("13", "7", "FF", None, 1)],
        "2/crlf_header.csv": [("11", "5", "DD", None, 1), ("12", "6", "EE", None, 2)],
    }


# --- 15: options of a source (databricks/spark-csv#327) --------------------------------------------------------------


def test_only_own_options_are_declared(make_lake: Lakes) -> None:
    for options in ({"mode": "DROPMALFORMED"}, {"delimiter": ";"}):
        with pytest.raises(DeclarationError, match=f"option '{next(iter(options))}' is none of a CSV source's"):
            make_lake(declare(("id", "name"), options=options))
    lake = make_lake(declare(("id", "name"), options={"sep": ";"}))
    deliver(lake, {"semi.csv": "id;name\n1;a\n"})
    deliver(lake, {"more.csv": "id;name\n2;b,c\n3\n", "comma.csv": "id,name\n4,d\n"})
    assert read_rows(lake) == {
        "1/semi.csv": [("1", "a", None, 1)],
        "2/more.csv": [("2", "b,c", None, 1), (None, None, "3", 2)],
    }
    assert lake.rejected("raw.case") == {"comma.csv": "has no header: its first line is 'id,name'"}


def test_uneven_rows_are_kept_as_malformed(make_lake: Lakes) -> None:
    lake = make_lake(declare(("id", "name")))
    deliver(lake, {"uneven.csv": "id,name\n1,a\n2,b,c\n3\n4,d\n"})
    deliver(lake, {"more.csv": "id,name\n5\n6,e\n"})
    assert read_rows(lake) == {
        "1/uneven.csv": [("1", "a", None, 1), (None, None, "2,b,c", 2), (None, None, "3", 3), ("4", "d", None, 4)],
        "2/more.csv": [(None, None, "5", 1), ("6", "e", None, 2)],
    }


def test_a_header_becomes_no_row(make_lake: Lakes) -> None:
    lake = make_lake(declare(("id", "name"), options={"header": "false"}))
    deliver(lake, {"no_header.csv": "1,a\n2,b\n", "with_header.csv": "id,name\n3,c\n"})
    deliver(lake, {"later.csv": "4,d\n", "headers.csv": '"id","name"\r\n5,e\r\n'})
    assert read_rows(lake) == {
        "1/no_header.csv": [("1", "a", None, 1), ("2", "b", None, 2)],
        "2/later.csv": [("4", "d", None, 1)],
    }
    reason = (
        "has a header, but is declared without one: its first record is 'id,name'; "
        'declare the source with the option header="true"'
    )
    assert lake.rejected("raw.case") == {"with_header.csv": reason, "headers.csv": reason}


# --- 40: a declared encoding (databricks/spark-csv#116) --------------------------------------------------------------


def test_text_is_read_in_the_declared_encoding(make_lake: Lakes) -> None:
    lake = make_lake(declare(("id", "name"), options={"sep": ";", "encoding": "ISO-8859-1"}))
    text = "id;name\r\n{};Müller\r\n"
    deliver(lake, {"excel.csv": text.format(1).encode("latin-1"), "utf8.csv": text.format(2).encode()})
    deliver(lake, {"plain.csv": b"id;name\n3;Smith\n", "more.csv": text.format(4).encode("latin-1")})
    assert read_rows(lake) == {
        "1/excel.csv": [("1", "Müller", None, 1)],
        "2/more.csv": [("4", "Müller", None, 1)],
        "2/plain.csv": [("3", "Smith", None, 1)],
    }
    assert lake.rejected("raw.case") == {"utf8.csv": "is UTF-8 text, declared iso8859-1"}
