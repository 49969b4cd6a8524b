"""Layouts of JSON files: records on lines, in a list or over several lines. No row is a piece of a record."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse.definitions.sources import source
from lakehouse.landing.reader import json_layout
from tests.readings import read

NOTES = source("raw.notes", landing="notes", columns={"id": "bigint", "note": "string"}, format="json")


def rows_of(content: str) -> list[tuple[Any, ...]]:
    return read(NOTES, content).values("_row", "id", "note", "_malformed")


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_only_a_line_feed_ends_a_line(character: str) -> None:
    first = f'{{"id": 1, "note": "a{character}b"}}\n'
    assert rows_of(first + '{"id": 2\n{"id": 3}\n') == [
        (1, 1, f"a{character}b", None),
        (2, None, None, '{"id": 2'),
        (3, 3, None, None),
    ]
    assert read(NOTES, first + '{"id": 2}{"id": 3}\n').reason == "has more than one record in line 2"


def test_a_carriage_return_within_a_record_is_whitespace() -> None:
    assert rows_of('{"id": 1,\r"note": "a"}\n{"id":\r2}\r\n{"id": 3,\r}\r\n') == [
        (1, 1, "a", None),
        (2, 2, None, None),
        (3, None, None, '{"id": 3,\r}'),
    ]


def test_returns_alone_end_lines_without_line_feeds() -> None:
    assert rows_of('{"id": 1}\r\r{"id": x}\r{\r"id": 3\r}\r') == [
        (1, 1, None, None),
        (2, None, None, '{"id": x}'),
        (3, 3, None, None),
    ]
    assert rows_of('{\r"id": 1\r}\r{\r"id": 2\r}') == [(1, 1, None, None), (2, 2, None, None)]
    assert rows_of('[{"id": 1},\r{"id":\r"2"}]\r') == [(1, 1, None, None), (2, None, None, '{"id":\r"2"}')]


def test_a_late_line_feed_rejects_lines_of_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_layout, "BLOCK_BYTES", 16)
    monkeypatch.setattr("lakehouse.landing.reader.compression.CHUNK_BYTES", 4)
    assert read(NOTES, '{"id": 1}\r{"id": 2}\r{"id": 3}\n').reason == (
        "has a line feed after lines that end with a carriage return alone"
    )


MIXED = {
    '{\n  "id": 1\n}\n': [1],
    '{"id": 1}\n{\n "id": 2\n}': [1, 2],
    '{"id": 1}\n{"id": 2}\n\n{\n "id": 3\n}\n{"id": 4}\n{\n"id": 5}\n': [1, 2, 3, 4, 5],
    '{"id": 1}\r\n{\r\n "id": 2\r\n}\r\n': [1, 2],
    '{\n "id": 1\n}{\n "id": 2\n}\n': [1, 2],
    '{"id":\n{"id": 1}\n}\n{"id": 2}\n': [None, 2],
    '{"id": 1}\n{"note": null\n, "id": 2}\n': [1, 2],
    '{}\n{\n "id": 2\n}\n': [None, 2],
}


@pytest.mark.parametrize("content", MIXED)
@pytest.mark.parametrize("block", [1, 12, 4 << 20])
def test_objects_over_several_lines_are_whole(content: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_layout, "BLOCK_BYTES", block)
    monkeypatch.setattr(json_layout, "_WINDOW_BYTES", block)
    monkeypatch.setattr("lakehouse.landing.reader.compression.CHUNK_BYTES", max(1, block // 2))
    ids = MIXED[content]
    assert read(NOTES, content).values("_row", "id") == [(row, number) for row, number in enumerate(ids, start=1)]


REJECTED = [
    ('{\n "id": tru,\n "note": "a"\n}\n', "has a piece of a damaged record in line 2"),
    ('{ "id": tru,\n "note": "a" }\n', "has a piece of a damaged record in line 2"),
    ('{"id": 1}\n{\n id: 2\n}\n', "has a piece of a damaged record in line 4"),
    ('{"id": 1}\n\n{\n "id": 2,\n', "has a piece of a damaged record in line 4"),
    ('{"id": 1}\n, {"id": 2}\n', "has a piece of a damaged record in line 2"),
    ('{"id": 1}\n[\n{"id": 2},\n{"id": 3}\n]\n', "has a list in line 2 instead of one record"),
    ('{"id": 1}\n[\n{"id": 2}\n{"id": 3}\n]\n', "has a piece of a damaged record in line 5"),
    ('{\n"id": 1\n}\n{"id": 2} {"id": 3}\n', "has more than one record in the line of record 2"),
    ('{"id": 1}\n{\n"id": 2\n}\n{"id": \n', "has a damaged record after record 2 (Expecting value)"),
]


@pytest.mark.parametrize(("content", "reason"), REJECTED)
def test_pieces_of_records_reject_their_file(content: str, reason: str) -> None:
    assert read(NOTES, content).reason == reason


def test_a_cut_line_alone_is_malformed() -> None:
    lines = ['{"id": 1}', '{"id":', '{"id": 2}', '{"note": [', '{"id": 3}', '{"id": "cut', '{"id": 4}', '{"id": 5,']
    assert read(NOTES, "\n".join(lines)).values("_row", "_malformed") == [
        (row, line if row in (2, 4, 6, 8) else None) for row, line in enumerate(lines, start=1)
    ]


def test_blank_lines_are_no_records() -> None:
    assert rows_of(' \t\n\n{"id": 1}\n   \n\r\n\t\r\n{"id": 2}\n\f\n \n') == [
        (1, 1, None, None),
        (2, 2, None, None),
        (3, None, None, "\f"),
    ]
    assert rows_of(" \n\t\n") == []
