"""Encodings of text: read as declared, or rejected where the text is plainly in another encoding."""

from __future__ import annotations

from typing import Any

import pytest

from lakehouse.definitions.sources import Source, source
from tests.readings import read

NAMES = "id;name\r\n1;Müller\r\n2;Straße\r\n"


def items(encoding: str, format: Any = "csv") -> Source:
    options = {"encoding": encoding, **({"sep": ";"} if format == "csv" else {})}
    return source("raw.items", landing="items", columns=("id", "name"), format=format, options=options)


@pytest.mark.parametrize(
    "encoding", ["ISO-8859-1", "windows-1252", "utf-8", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp437"]
)
def test_text_is_read_as_declared(encoding: str) -> None:
    assert read(items(encoding), NAMES.encode(encoding)).values("id", "name") == [("1", "Müller"), ("2", "Straße")]


def test_japanese_text_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.landing.reader.compression.CHUNK_BYTES", 3)
    content = '{"id": "1", "name": "日本 😀"}\n'
    assert read(items("utf-8", "json"), content).values("name") == [("日本 😀",)]
    assert read(items("utf-16", "json"), content.encode("utf-16")).values("name") == [("日本 😀",)]
    shift_jis = '{"id": "1", "name": "日本"}\n'.encode("shift_jis")
    assert read(items("shift_jis", "json"), shift_jis).values("name") == [("日本",)]


@pytest.mark.parametrize(
    ("declared", "actual", "reason"),
    [
        ("ISO-8859-1", "utf-8", "is UTF-8 text, declared iso8859-1"),
        ("windows-1252", "utf-8", "is UTF-8 text, declared cp1252"),
        ("ISO-8859-1", "utf-8-sig", "is UTF-8 text by its byte order mark, declared iso8859-1"),
        ("ISO-8859-1", "utf-16", "is UTF-16 text by its byte order mark, declared iso8859-1"),
        ("utf-8", "ISO-8859-1", "is not UTF-8 text (invalid start byte: fc)"),
        ("ascii", "ISO-8859-1", "is not ascii text (ordinal not in range(128): fc)"),
    ],
)
def test_other_encodings_are_rejected_by_name(declared: str, actual: str, reason: str) -> None:
    assert read(items(declared), NAMES.encode(actual)).reason == reason


def test_windows_text_declared_as_latin1_is_rejected() -> None:
    assert read(items("ISO-8859-1"), "id;name\n1;5 €\n".encode("windows-1252")).reason == (
        "is not iso8859-1 text: it has the control character '\\x80'"
    )


def test_undefined_bytes_of_utf8_name_utf8() -> None:
    content = "id;name\n1;Ý\n".encode()  # Its last byte has no character in windows-1252.
    assert read(items("windows-1252"), content).reason == "is UTF-8 text, declared cp1252"


def test_plain_ascii_is_any_encoding() -> None:
    assert read(items("ISO-8859-1"), b"id;name\n1;a\n").values("name") == [("a",)]
