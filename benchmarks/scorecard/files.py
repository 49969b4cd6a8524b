"""The kinds of defects in whole files, and in all rows of a day at once."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.scorecard.kinds import NEWEST, Change, in_one_of, put, times

Files = dict[str, bytes]

# The checks of a file before it is read, and the beginnings of their reasons for a rejection.
COLUMNS, NOT_EMPTY, ENDED, QUOTES, UTF8, PACKED = (
    "columns as declared",
    "not empty",
    "last line ended",
    "quotes closed",
    "text in UTF-8",
    "packed data whole",
)
FILE_CHECKS = {
    COLUMNS: ("lacks column", "has an unknown column", "has its columns in another order", "has no header"),
    NOT_EMPTY: ("is empty",),
    ENDED: ("does not end with a line end",),
    QUOTES: ("has a quote that is never closed",),
    UTF8: ("is not UTF-8",),
    PACKED: (
        "ends before its compressed data does",
        "cannot be read: Error -3",
        "cannot be read: CRC check failed",
        "is compressed as",
        "cannot be read: its name ends in",
    ),
}


@dataclass(frozen=True)
class FileKind:
    """A kind of defect in a whole file.

    Attributes:
        claim: as in `Kind`.
        change: returns the files to deliver instead.
    """

    name: str
    claim: str | None
    change: Callable[[str, bytes], Files]


def _in_place(change: Callable[[bytes], bytes], suffix: str = "") -> Callable[[str, bytes], Files]:
    return lambda name, content: {name + suffix: change(content)}


def _by_line(change: Callable[[list[str]], list[str]]) -> Callable[[str, bytes], Files]:
    return _in_place(lambda content: "".join(change(content.decode().splitlines(keepends=True))).encode())


def _drop_column(lines: list[str]) -> list[str]:
    return [line.partition(",")[2] for line in lines]


def _rename_column(lines: list[str]) -> list[str]:
    return [lines[0].replace("dep_delay", "departure_delay"), *lines[1:]]


def _reorder(lines: list[str]) -> list[str]:
    """Swap the delays of departure and arrival, in the header and in the rows."""
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[5], row[8] = row[8], row[5]
    return [",".join(row) for row in rows]


def _add_quotes(lines: list[str], *at: int) -> list[str]:
    """Put a quote before the destination, the 14th value, of some lines."""
    changed = list(lines)
    for i in at:
        values = changed[i].split(",")
        values[13] = f'"{values[13]}'
        changed[i] = ",".join(values)
    return changed


def _encode_latin_1(lines: list[str]) -> bytes:
    values = lines[5].split(",")
    values[13] = "Zürich"
    return "".join([*lines[:5], ",".join(values), *lines[6:]]).encode("latin-1")


def _damage(content: bytes) -> bytes:
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[len(packed) // 2] ^= 0xFF
    return bytes(packed)


def _deliver_twice(name: str, content: bytes) -> Files:
    return {name: content, name.replace(".csv", "_again.csv"): content}


FILE_KINDS = (
    FileKind("a column is missing", COLUMNS, _by_line(_drop_column)),
    FileKind("a column has another name", COLUMNS, _by_line(_rename_column)),
    FileKind("columns in another order", COLUMNS, _by_line(_reorder)),
    FileKind("no header", COLUMNS, _by_line(lambda lines: lines[1:])),
    FileKind("empty", NOT_EMPTY, _in_place(lambda content: b"")),
    FileKind("cut within a row", ENDED, _in_place(lambda content: content[: len(content) // 2 + 7].rstrip(b"\n"))),
    FileKind("a quote that is never closed", QUOTES, _by_line(lambda lines: _add_quotes(lines, 10))),
    FileKind("two quotes that are never closed", QUOTES, _by_line(lambda lines: _add_quotes(lines, 10, 20))),
    FileKind(
        "Latin-1 text", UTF8, _in_place(lambda content: _encode_latin_1(content.decode().splitlines(keepends=True)))
    ),
    FileKind("UTF-16 text", UTF8, _in_place(lambda content: content.decode().encode("utf-16"))),
    FileKind("gzip, cut short", PACKED, _in_place(lambda content: gzip.compress(content, mtime=0)[:-4000], ".gz")),
    FileKind("gzip, a byte damaged", PACKED, _in_place(_damage, ".gz")),
    FileKind("a name that promises compression, and plain content", PACKED, _in_place(bytes, ".zst")),
    FileKind("delivered twice, under two names", NEWEST, _deliver_twice),
    FileKind("cut at a line's end", None, _by_line(lambda lines: lines[: len(lines) // 2])),
    FileKind("a header and no row", None, _by_line(lambda lines: lines[:1])),
)


@dataclass(frozen=True)
class DayKind:
    """A kind of defect in every row of a day, or in every second row.

    Attributes:
        claim: type and column of the violated expectation in the table's suite.
        every: the defect is in every row (1), every second row (2), and so on.
    """

    name: str
    claim: tuple[str, str | None]
    change: Change
    every: int = 1


_MEAN, _SHARE = "expect_column_mean_to_be_between", "expect_column_proportion_of_non_null_values_to_be_between"
_LOST = dict.fromkeys(("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"), "NA")
DAY_KINDS = (
    DayKind("every distance in kilometres", (_MEAN, "distance_mi"), times(1.609, "distance")),
    DayKind("every delay in seconds", (_MEAN, "arr_delay_min"), times(60, "dep_delay", "arr_delay")),
    DayKind("no aircraft is named", (_SHARE, "tailnum"), put(tailnum="NA")),
    DayKind("every second flight cancelled", (_SHARE, "dep_delay_min"), put(**_LOST), every=2),
    DayKind("every row quarantined", ("expect_table_row_count_to_be_between", None), in_one_of(("distance",), "-1")),
)
