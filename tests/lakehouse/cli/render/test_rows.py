"""The renderer of a query's result: it fits the terminal, cuts values alone, and shows names and values as text."""

from __future__ import annotations

import io
import json
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
from rich.console import Console

from lakehouse.cli.render.rows import print_rows


def render(rows: pa.Table, width: int, *, as_json: bool = False) -> list[str]:
    """Return the printed lines. They are no wider than the terminal."""
    output = io.StringIO()
    print_rows(Console(file=output, width=width, emoji=False), rows, as_json)
    lines = output.getvalue().splitlines()
    assert as_json or max(map(len, lines)) <= width, lines
    return [line.rstrip() for line in lines]


def test_values_are_cut_and_headers_are_not() -> None:
    rows = pa.table({"id": [1, 22], "a_long_header_of_text": ["x", "y"], "note": ["z" * 100, "short"]})
    assert render(rows, 50) == [
        "id  a_long_header_of_text  note",
        " 1  x                      zzzzzzzzzzzzzzzzzzzzzz…",
        "22  y                      short",
    ]


def test_numbers_and_times_are_never_cut() -> None:
    at = datetime(2024, 1, 31, 12, 30, 15, 123456)
    rows = pa.table({"text": ["a" * 60], "at": [at], "amount": [Decimal("1234567890123.45")], "key": [2**62]})
    assert render(rows, 40) == [
        "text          at",
        "aaaaaaaaaaa…  2024-01-31 12:30:15.123456",
        "          amount                  key",
        "1234567890123.45  4611686018427387904",
    ]


def test_many_columns_are_printed_in_blocks() -> None:
    rows = pa.table({f"column_{number}": ["some text"] for number in range(5)})
    block = ["column_0   column_1   column_2", "some text  some text  some text"]
    assert render(rows, 35) == [*block, "column_3   column_4", "some text  some text"]


def test_a_row_is_one_line_of_plain_text() -> None:
    names = (
        "[red]a[/red]",
        "[/x]",
        ":warning:",
        "two\nlines\r",
        "\x1b[2J\x1b]0;title\x07",
        "\u202eltr\u2066\x9b",
        "a\\",
    )
    rows = pa.table({"[/h]\x1b[1m": list(names)})
    assert render(rows, 80) == [
        r"[/h]\x1b[1m",
        "[red]a[/red]",
        "[/x]",
        ":warning:",
        r"two\nlines\r",
        r"\x1b[2J\x1b]0;title\x07",
        r"\u202eltr\u2066\x9b",
        "a\\",
    ]
    document = "\n".join(render(rows, 80, as_json=True))
    assert json.loads(document) == [{"[/h]\x1b[1m": name} for name in names]
    assert document.isascii()
    assert document.replace("\n", "").isprintable()


def test_wide_characters_count_twice() -> None:
    rows = pa.table({"name": ["東京" * 20], "more": ["x" * 40]})
    output = io.StringIO()
    print_rows(Console(file=output, width=30, emoji=False), rows, False)
    assert output.getvalue().splitlines()[1] == "東京東京東京…   xxxxxxxxxxxxx…"


def test_an_empty_result_prints_its_headers() -> None:
    rows = pa.table({"id": pa.array([], pa.int64()), "name": pa.array([], pa.string())})
    assert render(rows, 80) == ["id  name"]
