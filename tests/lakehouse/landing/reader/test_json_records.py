"""JSON files: a record is of its declared types exactly, or malformed; unknown keys go by the contract."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.landing.reader import json_layout, json_records
from tests.readings import read

STRICT = Contract()
RESCUE = Contract(new_column="rescue")
EVENTS = {
    "id": "bigint",
    "at": "timestamp",
    "day": "date",
    "amount": "decimal(10,2)",
    "level": "tinyint",
    "note": "string",
}
ADDRESSES = {"id": "bigint", "address": "struct<city:string,zip:string>", "items": "array<struct<sku:string,qty:int>>"}


def items(columns: Any = ("id",), contract: Contract = STRICT) -> Source:
    return source("raw.items", landing="items", columns=columns, format="json", contract=contract)


def event(number: int, **changed: str) -> str:
    """Return a record as JSON. Values are given as JSON."""
    values = {
        "id": str(number),
        "at": '"2024-01-01T10:00:00Z"',
        "day": '"2024-01-01"',
        "amount": "1.25",
        "level": "1",
        "note": '"plain"',
    }
    return "{" + ", ".join(f'"{key}": {value}' for key, value in (values | changed).items()) + "}"


MALFORMED_EVENTS = [
    event(2, at="1704103200000"),
    event(3, at="1704103200"),
    event(4, day='"20240131"'),
    event(5, day='"45292"'),
    event(6, amount="1.239"),
    event(7, level="200"),
    event(8, at='"12:30:00"'),
    event(9, at='"2024"'),
    event(10, day='"2024-01-01T23:30:00-05:00"'),
    event(11, at='"2024-01-01T10:00:00.123456789Z"'),
    event(12, day='"2024-01-01 xyz"'),
    event(13, note="9007199254740994.0"),
    event(14, amount='"1.25"'),
    event(15, level="1.0"),
    event(16, day='"2023-02-29"'),
    event(17, day='"0000-01-01"'),
    event(18, at='"2024-01-01T25:00:00Z"'),
    event(19, at='"2024-01-01T10:00:00Z garbage"'),
    event(20, amount="123456789.00"),
    event(21, amount="true"),
    event(22, id="9223372036854775808"),
    event(23, note="true"),
    event(24, note='{"a": 1}'),
    event(25, at='"9999-12-31T23:59:59-05:00"'),
    event(26, id='"26"'),
]


def test_values_of_other_types_are_malformed() -> None:
    good = (1, datetime(2024, 1, 1, 10, tzinfo=UTC), date(2024, 1, 1), Decimal("1.25"), 1, "plain", None)
    content = "\n".join([event(1), *MALFORMED_EVENTS, event(1)]) + "\n"
    count = len(MALFORMED_EVENTS)
    assert read(items(EVENTS), content).values("_row", *EVENTS, "_malformed") == [
        (1, *good),
        *((at, *[None] * 6, text) for at, text in enumerate(MALFORMED_EVENTS, start=2)),
        (count + 2, *good),
    ]


EXACT = [
    ("timestamp", '"2024-01-31 10:00:00"', datetime(2024, 1, 31, 10, tzinfo=UTC)),
    ("timestamp", '"2024-01-31T10:00:00.5+05:30"', datetime(2024, 1, 31, 4, 30, 0, 500_000, tzinfo=UTC)),
    ("timestamp", '"2024-01-31T10:00:00.123456000Z"', datetime(2024, 1, 31, 10, 0, 0, 123_456, tzinfo=UTC)),
    ("timestamp_ntz", '"0001-01-01T00:00:00"', datetime(1, 1, 1)),
    ("timestamp_ntz", '"9999-12-31T23:59:59.999999"', datetime(9999, 12, 31, 23, 59, 59, 999_999)),
    ("date", '"9999-12-31"', date(9999, 12, 31)),
    ("decimal(38,10)", "1234567890123456789012345678.0123456789", Decimal("1234567890123456789012345678.0123456789")),
    ("decimal(10,2)", "1.50", Decimal("1.50")),
    ("decimal(10,2)", "-12e1", Decimal("-120.00")),
    ("bigint", "9007199254740993", 9007199254740993),
    ("bigint", "-9223372036854775808", -(2**63)),
    ("double", "0.1", 0.1),
    ("double", "3", 3.0),
    ("boolean", "true", True),
    ("binary", '"AQI="', b"\x01\x02"),
    ("string", '"\\ud83d\\ude00 \\u0000 日本"', "😀 \0 日本"),
    ("map<string,decimal(5,2)>", '{"a": 1.25, "b": null}', [("a", Decimal("1.25")), ("b", None)]),
    ("array<array<int>>", "[[1, null], null, []]", [[1, None], None, []]),
    ("struct<from:date,class:array<boolean>>", '{"class": [true]}', {"from": None, "class": [True]}),
    ("bigint", "null", None),
    ("decimal(5,2)", "null", None),
]
WRONG = [
    ("timestamp_ntz", '"2024-01-01T10:00:00Z"'),
    ("double", "1e400"),
    ("float", "1e300"),
    ("double", '"1.5"'),
    ("double", "NaN"),
    ("boolean", "1"),
    ("boolean", '"true"'),
    ("binary", '"A"'),
    ("int", "1e2"),
    ("int", "01"),
    ("string", '"\\ud800"'),
    ("string", '"a\tb"'),
    ("string", "null x"),
    ("map<string,int>", '{"a": 1, "a": 2}'),
    ("map<string,int>", '{"a": "1"}'),
    ("array<int>", "[1, 2147483648]"),
    ("array<int>", '{"0": 1}'),
    ("struct<a:int>", '{"a": 1, "a": 1}'),
    ("struct<a:decimal(3,1)>", '{"a": 1.25}'),
    ("struct<a:int>", "[1]"),
]


@pytest.mark.parametrize("position", ["alone", "among others"])
def test_values_are_exact_or_their_record_is_malformed(position: str) -> None:
    for kind, text, expected in EXACT:
        lines = [f'{{"v": {text}}}'] * (1 if position == "alone" else 40)
        assert read(items({"v": kind}), "\n".join(lines)).values("v", "_malformed") == [(expected, None)] * len(lines)
    for kind, text in WRONG:
        line = f'{{"v": {text}}}'
        others = [] if position == "alone" else ['{"v": null}'] * 40
        rows = read(items({"v": kind}), "\n".join([line, *others, line])).values("v", "_malformed")
        assert rows == [(None, line), *[(None, None)] * len(others), (None, line)], (kind, text)


def test_new_keys_at_any_depth_reject_by_default() -> None:
    old = '{"id":1,"address":{"city":"A","zip":"01234"},"items":[{"sku":"s1","qty":1}]}\n'
    new = (
        '{"id":2,"address":{"city":"B","zip":"02345","country":"DE"},"items":[{"sku":"s1","qty":1,"discount":0.5}]}\n'
        '{"id":3,"address":{"City":"C","zip":"1"},"items":[]}\n'
    )
    assert read(items(ADDRESSES), old).values("_row", *ADDRESSES) == [
        (1, 1, {"city": "A", "zip": "01234"}, [{"sku": "s1", "qty": 1}])
    ]
    assert read(items(ADDRESSES), old + new).reason == (
        "has an unknown column address.country; has an unknown column items.discount; "
        "has an unknown column address.City"
    )
    found = read(items(ADDRESSES, RESCUE), old + new)
    assert found.values("_row", *ADDRESSES, "_rescued") == [
        (1, 1, {"city": "A", "zip": "01234"}, [{"sku": "s1", "qty": 1}], None),
        (
            2,
            2,
            {"city": "B", "zip": "02345"},
            [{"sku": "s1", "qty": 1}],
            '{"address.country":"DE","items[0].discount":"0.5"}',
        ),
        (3, 3, {"city": None, "zip": "1"}, [], '{"address.City":"C"}'),
    ]
    assert [*found.columns][3:] == ["address.country", "items.discount", "address.City"]


def test_new_keys_are_rescued_or_added_as_landed() -> None:
    content = '{"id": "1", "more": {"a": [1, 2.50]}, "ID": 3, "none": null}\n{"id": "2"}\n{broken\n{"more": "x"}\n'
    assert read(items(contract=RESCUE), content).values("id", "_malformed", "_rescued") == [
        ("1", None, '{"more":"{\\"a\\": [1, 2.50]}","ID":"3"}'),
        ("2", None, None),
        (None, "{broken", None),
        (None, None, '{"more":"x"}'),
    ]
    adding = items(contract=Contract(new_column="add"))
    found = read(adding, content)
    assert found.added == {"more": "string", "none": "string"}
    assert found.values("id", "more", "none", "_rescued") == [
        ("1", '{"a": [1, 2.50]}', None, '{"ID":"3"}'),
        ("2", None, None, None),
        (None, None, None, None),
        (None, "x", None, None),
    ]
    numbers = read(adding, '{"n": 5}\n{"n": 1.5}\n', existing={"n": "int"})
    assert numbers.values("n", "_rescued") == [(5, None), (None, '{"n":"1.5"}')]


def test_keys_of_malformed_records_count_for_the_contract() -> None:
    assert read(items(), '{"id":"1","zz":1}\n{"id":5,"yy":1}\n{"id":\n').reason == (
        "has an unknown column zz; has an unknown column yy"
    )


def test_duplicate_keys_are_malformed() -> None:
    declared = items({"id": "int", "m": "map<string,struct<x:int>>"}, RESCUE)
    bad = [
        '{"id":1,"id":1}',
        '{"id" : 1, "\\u0069d" : 2}',
        '{"m":{"a":{"x":1,"x":2}}}',
        '{"m":{"a":null,"a":{"x":2}}}',
        '{"other":{"a":1,"a":2}}',
        '{"other":1,"other":2}',
    ]
    good = ['{"id":1,"other":"id: : \\": "}', '{"id" : 2, "m" : {"a:b" : {"x" : 1}}, "other":{"a":{"a":":"}}}']
    rows = read(declared, "\n".join([*good, *bad, *good])).values("id", "_malformed")
    assert rows == [(1, None), (2, None), *((None, text) for text in bad), (1, None), (2, None)]


LAYOUTS = {
    "lines": '{"id": 1, "note": "a"}\n\n{"id": 2, "note": "é"}\r\n{"note": "c", "id": 3}',
    "list": '[{"id": 1, "note": "a"},\n{"id": 2, "note": "é"},\n{"note": "c", "id": 3}]\n',
    "pretty list": json.dumps([{"id": 1, "note": "a"}, {"id": 2, "note": "é"}, {"note": "c", "id": 3}], indent=2),
    "pretty objects": "\n".join(json.dumps({"id": i, "note": n}, indent=2) for i, n in ((1, "a"), (2, "é"), (3, "c"))),
    "with a byte order mark": '\ufeff\n {"id": 1, "note": "a"}\n{"id": 2, "note": "é"}\n{"note": "c", "id": 3}\n',
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [1, 40, 4 << 20])
def test_layouts_have_the_same_records(layout: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_layout, "BLOCK_BYTES", block)
    monkeypatch.setattr("lakehouse.landing.reader.compression.CHUNK_BYTES", max(1, block // 2))
    assert read(items({"id": "bigint", "note": "string"}), LAYOUTS[layout]).values("_row", "id", "note") == [
        (1, 1, "a"),
        (2, 2, "é"),
        (3, 3, "c"),
    ]


def test_wrong_elements_of_a_list_are_malformed() -> None:
    content = '[{"id": "1"}, {"id":\n 5}, 5, {"id": "x", "id": "y"}, null, [], {"id": NaN}]\n'
    assert read(items(), content).values("_row", "id", "_malformed") == [
        (1, "1", None),
        (2, None, '{"id":\n 5}'),
        (3, None, "5"),
        (4, None, '{"id": "x", "id": "y"}'),
        (5, None, "null"),
        (6, None, "[]"),
        (7, None, '{"id": NaN}'),
    ]
    assert read(items(), "[]").rows == []


TOO_DEEP = "has a record with too many levels, in a list or over several lines"
REJECTED = [
    ("", "is empty"),
    ('{"id": "1"}\n[{"id": "2", "zz": 2}]\n', "has a list in line 2 instead of one record"),
    ('{"id": "1"}\n\n{"id": "3"} {"id": "4"}\n', "has more than one record in line 3"),
    ('{"id": "1"} x\n', "has more than one record in line 1"),
    ('[{"id": "1"}', "ends within its list, after record 1"),
    ('[{"id": "1"},', "ends within its list, after record 1"),
    ('[{"id": "1"}, {"id"', "has a damaged record after record 1 (Expecting ':' delimiter)"),
    ('[{"id": "1"} {"id": "2"}]', "has '{' after record 1, where it does not belong"),
    ('[{"id": "1"},]', "has ']' after record 1, where it does not belong"),
    ('[{"id": "1"}]\n{"id": "2"}\n', "has '{' after record 1, where it does not belong"),
    ('{\n"id": "1"\n}\n{\n"id": ', "has a damaged record after record 1 (Expecting value)"),
    ('[{"id": ' + 100_000 * "[" + 100_000 * "]" + "}]", TOO_DEEP),
    ('{"id":\n' + 100_000 * '{"a":' + "1" + 100_000 * "}" + "}\n", TOO_DEEP),
    (b'{"id": "caf\xe9"}\n', "is not UTF-8 text (invalid continuation byte: e9)"),
]


@pytest.mark.parametrize(("content", "reason"), REJECTED, ids=[reason for _, reason in REJECTED])
def test_broken_files_are_rejected_with_reason(content: bytes | str, reason: str) -> None:
    assert read(items(), content).reason == reason


def test_text_that_is_no_object_is_malformed() -> None:
    lines = ['{"id": "1"}', "{'id': '5', 'zz': 2}", '"text"', "null", "5", "{broken", '{"id": "cut', "[]", "\0"]
    assert read(items(), "\n".join(lines)).values("_row", "id", "_malformed") == [
        (1, "1", None),
        *((at, None, line) for at, line in enumerate(lines[1:], start=2)),
    ]


def test_groups_and_single_records_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record has the same outcome alone and in a group, whatever stands beside it."""
    chance = random.Random(1)
    parts = [
        '"id":1',
        '"id":"1"',
        '"s":{"a":"x"}',
        '"s":{"a":"x","b":1}',
        '"s":null',
        '"m":{"k":1.5}',
        '"m":{"k":1.55}',
    ]
    parts += ['"id":2', '"zz":[{"a":1}]', '"t":"2024-01-01"', '"t":"2024-01-01 10:00:00"', '"zz":"a : b"', "x"]
    columns = {"id": "int", "s": "struct<a:string>", "m": "map<string,decimal(5,1)>", "t": "timestamp"}
    lines = ["{" + ",".join(chance.choices(parts, k=chance.randrange(4))) + "}" for _ in range(150)]
    for contract in (RESCUE, Contract(new_column="add")):
        together = read(items(columns, contract), "\n".join(lines))
        with monkeypatch.context() as patched:
            patched.setattr(json_records, "_GROUP_RECORDS", 1)
            alone = read(items(columns, contract), "\n".join(lines))
        rows = [{key: value for key, value in row.items() if value is not None} for row in alone.rows]
        assert [{key: value for key, value in row.items() if value is not None} for row in together.rows] == rows
    assert 20 < sum("_malformed" in row for row in rows) < 130


def test_random_files_are_read_strictly() -> None:
    """A file that is empty, or that has two records in one line, is rejected."""
    chance = random.Random(1)
    parts = [
        '{"id":"1"}',
        '{"id": "2"}',
        "{",
        "}",
        '"id"',
        ":",
        ",",
        "[",
        "]",
        "\n",
        "\n",
        " ",
        '{"zz":1}',
        "x",
        "\r\n",
    ]
    accepted = 0
    for number in range(100):
        text = "".join(chance.choices(parts, k=chance.randrange(12)))
        result = read(items(), text)
        accepted += result.reason is None
        is_list = text.lstrip().startswith("[")
        if not text or (not is_list and any(map(has_two_records, text.split("\n")))):
            assert result.reason, (number, text)
    assert accepted > 15


def has_two_records(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.msg == "Extra data" and line[: error.pos].lstrip().startswith(("{", "["))
    return False
