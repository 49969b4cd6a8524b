"""CSV files: every record is good with its exact values, or malformed with its text; other files are rejected."""

from __future__ import annotations

import csv
import io
import random
import sys
from typing import Any

import pytest

from lakehouse.definitions.contracts import Contract
from lakehouse.definitions.sources import Source, source
from lakehouse.landing.reader import delimited
from lakehouse.landing.reader.compression import DEFAULT_LIMITS
from lakehouse.landing.reader.preview import preview_file
from tests.readings import landed, read

COLUMNS = ("id", "value")
HEADER = "id,value\n"


def items(**more: Any) -> Source:
    return source("raw.items", landing="items", columns=more.pop("columns", COLUMNS), **more)


def rows_of(content: bytes | str, **more: Any) -> list[tuple[Any, ...]]:
    return read(items(**more), content).values("_row", "id", "value", "_malformed")


@pytest.mark.parametrize(
    "content", ["1,2\n3,4\n", "1,2\r\n3,4\r\n", "1,2\r\n3,4\n", "1,2\n3,4\r\n", "\n1,2\n\r\n\n3,4\n"]
)
@pytest.mark.parametrize("header", ["id,value\n", "id,value\r\n"])
def test_line_ends_and_blank_lines_change_no_row(header: str, content: str) -> None:
    assert rows_of(header + content) == [(1, "1", "2", None), (2, "3", "4", None)]


def test_mixed_line_ends_leave_no_carriage_return() -> None:
    declared = source("raw.items", landing="items", columns=("id", "qty", "code"))
    for content in ("id,qty,code\n1,5,AA\r\n3,7,\r\n4,8,AA\n", "id,qty,code\r\n1,5,AA\n3,7,\n4,8,AA\r\n"):
        assert read(declared, content).values("_row", "id", "qty", "code", "_malformed") == [
            (1, "1", "5", "AA", None),
            (2, "3", "7", None, None),
            (3, "4", "8", "AA", None),
        ]


def test_a_lone_carriage_return_is_a_value() -> None:
    assert rows_of(HEADER + '1,a\rb\n2,"c\rd"\r\n3,\r\r\n4\rx\n') == [
        (1, "1", "a\rb", None),
        (2, "2", "c\rd", None),
        (3, "3", "\r", None),
        (4, None, None, "4\rx"),
    ]


def test_a_file_without_line_feeds_ends_records_with_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'id,value\r1,a\r2,"b\rc"\r\r3\r'
    expected = [(1, "1", "a", None), (2, "2", "b\rc", None), (3, None, None, "3")]
    for size in (1, 1 << 20):
        monkeypatch.setattr(delimited, "BLOCK_BYTES", size)
        assert rows_of(text) == expected
    monkeypatch.setattr("lakehouse.landing.reader.compression.CHUNK_BYTES", 8)
    assert rows_of(text) == expected
    late = read(items(), text + "4,4\n")
    assert late.reason == "has a line feed after lines that end with a carriage return alone"


def test_quoted_values_are_exact() -> None:
    content = (
        HEADER + '1,"say ""yes"", or no"\n2,an "inner" quote\n"3",""""\n4,"a,b"\n5,"one\r\ntwo\nthree"\n6,""\n7,\n'
    )
    assert rows_of(content + '8,"ends in a backslash\\"\n9,  kept  \n10," kept "\n11,nul\0nul\n') == [
        (1, "1", 'say "yes", or no', None),
        (2, "2", 'an "inner" quote', None),
        (3, "3", '"', None),
        (4, "4", "a,b", None),
        (5, "5", "one\r\ntwo\nthree", None),
        (6, "6", None, None),
        (7, "7", None, None),
        (8, "8", "ends in a backslash\\", None),
        (9, "9", "  kept  ", None),
        (10, "10", " kept ", None),
        (11, "11", "nul\0nul", None),
    ]


@pytest.mark.parametrize("quoted", ["", '"4","5"\n'])
def test_malformed_records_keep_number_and_text(quoted: str) -> None:
    content = HEADER + "1,2\n\n3\r\n5,6,7\n ,\n" + quoted + "8,9,\r\n"
    expected = [
        (1, "1", "2", None),
        (2, None, None, "3"),
        (3, None, None, "5,6,7"),
        (4, " ", None, None),
        *([(5, "4", "5", None)] if quoted else []),
        (6 if quoted else 5, None, None, "8,9,"),
    ]
    assert rows_of(content) == expected


def test_text_after_a_closed_quote_is_malformed() -> None:
    assert rows_of(HEADER + '1,2"3"\n4,"5"6\n"x"y,1\n7,"8"\n') == [
        (1, "1", '2"3"', None),
        (2, None, None, '4,"5"6'),
        (3, None, None, '"x"y,1'),
        (4, "7", "8", None),
    ]


CUT = "does not end with a line end; it may be cut within its last value"
REJECTED = [
    ("", "is empty: not even a header"),
    ("\ufeff", "is empty: not even a header"),
    ("\n", "has no header: its first line is ''"),
    ("1,1\n", "has no header: its first line is '1,1'"),
    ("id;value\n", "has no header: its first line is 'id;value'"),
    ("ID,VALUE\n", "has no header: its first line is 'ID,VALUE'"),
    ("value,id\n", "has its columns in another order: value,id"),
    ("id\n", "lacks column value"),
    ("id,value,more\n", "has an unknown column more"),
    ("id,Value,value\n", "has an unknown column Value (differs from value only in case)"),
    ("id,value,value\n", "has column value twice"),
    ("id,value,\n", "has no name for column 3"),
    ("id,,\n", "has two columns without name"),
    ("id,value", CUT),
    (HEADER + "1,1", CUT),
    (HEADER + '1,"1', CUT),
    ("id,value\r1,1", CUT),
    ("id,value\r1,1\r2,2\n", "has a carriage return alone as a line end"),
    ("id\r,value\n1,1\n", "has a carriage return alone as a line end"),
    (HEADER + '1,"2\n3,4\n', "has a quote that is never closed, after line 1 (unexpected end of data)"),
    (HEADER + '1,"2\n3,4\n5,"6\n7,8\n', "has a quote that is never closed, after line 1 (',' expected after '\"')"),
    (HEADER + '1,2\n3,"4"5\n6,"7\n8,"9\n', "has a quote that is never closed, after line 3 (',' expected after '\"')"),
    (HEADER + '1,1\n2,"3" pipe"\n4,5\n', "has a quote that is never closed, after line 2 (',' expected after '\"')"),
    ('"id,value\n', "has a first line that is not a record (unexpected end of data)"),
    (b"id,value\n1,caf\xe9\n", "is not UTF-8 text (invalid continuation byte: e9)"),
    (b"id,value\n1,1\n\xc3", "is not UTF-8 text (unexpected end of data: c3)"),
    (b"id,value\n1,\xc0\xaf\n", "is not UTF-8 text (invalid start byte: c0)"),
    (b"id,value\n1,\xed\xa0\xbd\n", "is not UTF-8 text (invalid continuation byte: ed)"),
    ("id,value\n1,1\n".encode("utf-16"), "is not UTF-8 text (invalid start byte: ff)"),
]


@pytest.mark.parametrize(("content", "reason"), REJECTED)
def test_broken_files_are_rejected_with_reason(content: bytes | str, reason: str) -> None:
    assert read(items(), content).reason == reason


def test_odd_quotes_within_values_are_accepted() -> None:
    assert rows_of(HEADER + f'1,a 3" pipe\n2,{"x" * 300_000}\n3,"ok"\n') == [
        (1, "1", 'a 3" pipe', None),
        (2, "2", "x" * 300_000, None),
        (3, "3", "ok", None),
    ]


def test_header_names_are_mapped_to_columns() -> None:
    declared = source(
        "raw.orders",
        landing="orders",
        columns=("id", "order_id", "size"),
        header_names={"order_id": "Order ID", "size": "Größe"},
    )
    assert read(declared, "id,Order ID,Größe\n1,100,5\n").values("id", "order_id", "size") == [("1", "100", "5")]
    assert read(declared, "id,Order ID,Grösse\n1,100,5\n").reason == ("lacks column size; has an unknown column Grösse")
    assert read(declared, "id,Order ID,Größe,Order ID\n").reason == "has column order_id twice"


def test_separator_quote_and_header_are_options() -> None:
    declared = items(options={"sep": ";", "quote": "'", "header": "false"})
    assert read(declared, "1;'a;''b'''\n\"2\";c\n3\n").values("_row", "id", "value", "_malformed") == [
        (1, "1", "a;'b'", None),
        (2, '"2"', "c", None),
        (3, None, None, "3"),
    ]
    assert read(declared, "").reason == "is empty"


HEADERS = ["id,name", '"id","name"', "ID, Name", "\nid,name", "Nr.,Full Name"]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_none_declares_rejects_its_file(header: str) -> None:
    names = {"id": "Nr.", "name": "Full Name"}
    declared = items(columns=("id", "name"), options={"header": "false"}, header_names=names)
    first = header.strip().replace('"', "")
    reason = (
        f"has a header, but is declared without one: its first record is {first!r}; "
        'declare the source with the option header="true"'
    )
    content = f"{header}\n3,c\n"
    assert read(declared, content).reason == reason
    with landed(content) as (landing, file):
        assert preview_file(declared, file, landing, DEFAULT_LIMITS) == (reason, None)


def test_files_without_header_are_read() -> None:
    declared = items(columns=("id", "name"), options={"header": "false"})
    for content in ("1,a\n2,b\n", "\n\n1,a\n\n2,b\n"):
        assert read(declared, content).values("_row", "id", "name", "_malformed") == [
            (1, "1", "a", None),
            (2, "2", "b", None),
        ]
    assert read(declared, "id,a\nid,name\n").values("id", "name") == [("id", "a"), ("id", "name")]
    assert read(declared, "\n\n").rows == []


def test_blank_lines_have_no_character() -> None:
    single = items(columns=("id",))
    assert read(single, 'id\n1\n\n  \n""\n\t\r\n\r\n2\n').values("_row", "id", "_malformed") == [
        (1, "1", None),
        (2, "  ", None),
        (3, None, None),
        (4, "\t", None),
        (5, "2", None),
    ]
    assert rows_of(HEADER + "1,2\n\n  \n ,\n,\n\r\n\t\n") == [
        (1, "1", "2", None),
        (2, None, None, "  "),
        (3, " ", None, None),
        (4, None, None, None),
        (5, None, None, "\t"),
    ]
    assert read(items(), "\n" + HEADER + "1,2\n").reason == "has no header: its first line is ''"


@pytest.mark.parametrize("new_column", ["rescue", "add"])
def test_columns_without_name_are_rescued(new_column: Any) -> None:
    declared = items(contract=Contract(new_column=new_column))
    result = read(declared, "id,,value, \n1,2,3,4\n5,,6,\n")
    assert ([*result.columns], result.added) == (["id", "", "value", " "], {})
    assert result.values("_row", "id", "value", "_malformed", "_rescued") == [
        (1, "1", "3", None, '{"":"2"," ":"4"}'),
        (2, "5", "6", None, None),
    ]
    assert read(declared, "id,,value,\n1,2,3,4\n").reason == "has two columns without name"


def test_other_columns_are_rescued_by_name() -> None:
    declared = items(columns=("id", "at", "value"), contract=Contract(new_column="rescue", missing_column="ignore"))
    content = 'gate,value,id,at,"a, ""b"""\nA5,2,2,2,x\n,3,3,3,\n1,2\n'
    assert read(declared, content).values("_row", "id", "at", "value", "_malformed", "_rescued") == [
        (1, "2", "2", "2", None, '{"gate":"A5","a, \\"b\\"":"x"}'),
        (2, "3", "3", "3", None, None),
        (3, None, None, None, "1,2", None),
    ]
    found = read(declared, "id,ID,value\n4,IV,4\n")
    assert found.columns == {"id": "string", "ID": "string", "value": "string"}
    assert found.values("id", "at", "value", "_rescued") == [("4", None, "4", '{"ID":"IV","_missing":["at"]}')]


def test_new_columns_are_added_with_the_tables_type() -> None:
    declared = items(contract=Contract(new_column="add"))
    content = "id,value,gate,Gate,_row\n1,1,A5,x,y\n2,2,7,,\n"
    found = read(declared, content)
    assert found.added == {"gate": "string"}
    assert found.values("id", "gate", "_rescued") == [("1", "A5", '{"Gate":"x","_row":"y"}'), ("2", "7", None)]
    known = read(declared, content, existing={"gate": "int"})
    assert known.values("id", "gate", "_rescued") == [
        ("1", None, '{"gate":"A5","Gate":"x","_row":"y"}'),
        ("2", 7, None),
    ]
    assert read(declared, content, existing={"GATE": "string"}).added == {}


def test_a_record_grows_beyond_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 64)
    monkeypatch.setattr(delimited, "MAX_RECORD_BYTES", 100_000)
    long = "long\n" * 10_000
    assert rows_of(HEADER + f'1,"{long}"\n2,{"y" * 50_000}\n3\n') == [
        (1, "1", long, None),
        (2, "2", "y" * 50_000, None),
        (3, None, None, "3"),
    ]
    huge = HEADER + "1,1\n2," + "x" * 3_000_000 + "\n"
    assert read(items(), huge).reason == (
        "has a record of more than 100,000 bytes, or a quote that is never closed, after line 2"
    )


def test_a_byte_order_mark_within_a_file_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that begins with one loses nothing."""
    for size in (1, 1 << 20):
        monkeypatch.setattr(delimited, "BLOCK_BYTES", size)
        assert rows_of("\ufeff" + HEADER + "\ufeff1,2\n\ufeff,\ufeff\n") == [
            (1, "\ufeff1", "2", None),
            (2, "\ufeff", "\ufeff", None),
        ]
        one = read(items(columns=("id",)), "id\n\ufeff\nxx\n").values("_row", "id")
        assert one == [(1, "\ufeff"), (2, "xx")]


CHARACTERS = ["1", "\ufeff", ",", ",", '"', '"', '""', "\n", "\n", "\r\n", "\r", "é", '","', '\n"', '"\n']


def test_random_files_are_read_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut file is rejected, and good records are those of Python's strict reader."""
    chance = random.Random(1)
    accepted = 0
    for number in range(150):
        monkeypatch.setattr(delimited, "BLOCK_BYTES", chance.choice([1, 8, 1 << 20]))
        text = HEADER + "".join(chance.choices(CHARACTERS, k=chance.randrange(30))) + chance.choice(["\n", "\n", ""])
        result = read(items(), text)
        has_lone_return = "\r" in text.replace("\r\n", "")
        if not text.endswith(("\n", "\r")) or (not has_lone_return and ends_within_quotes(text)):
            assert result.reason, (number, text)
        if result.reason is None:
            accepted += 1
            good = [values for *values, malformed in result.values("id", "value", "_malformed") if malformed is None]
            if not has_lone_return:
                assert good == parse_strictly(text), (number, text)
    assert accepted > 25


def ends_within_quotes(text: str) -> bool:
    """Return whether Python's reader takes all text after a quote as one value."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            next(reader)
        except StopIteration:
            return False
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                return True


def parse_strictly(text: str) -> list[list[str | None]]:
    """Return the records with two values, by Python's reader. A value that is empty is None."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text.removeprefix(HEADER), newline=""), strict=True)
    rows = []
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return rows
        except csv.Error:
            continue
        if len(row) == 2:
            rows.append([value or None for value in row])


def test_a_declared_escape_keeps_the_next_quote_in_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        HEADER
        + '1,"a \\"quoted\\" word, then ""more"""\n2,"ends with \\\\"\n3,C:\\new\n4,"a\nb\\"c"\n5,"x\\"\n"\n\\"\n'
    )
    for size in (1, 1 << 20):
        monkeypatch.setattr(delimited, "BLOCK_BYTES", size)
        assert read(items(options={"escape": "\\"}), text).values("id", "value", "_malformed") == [
            ("1", 'a "quoted" word, then "more"', None),
            ("2", "ends with \\", None),
            ("3", "C:\\new", None),
            ("4", 'a\nb"c', None),
            ("5", 'x"\n', None),
            (None, None, '\\"'),
        ]
    cut = read(items(options={"escape": "\\"}), HEADER + '1,"a\\"\n')
    assert cut.reason == "has a quote that is never closed, after line 1 (unexpected end of data)"
