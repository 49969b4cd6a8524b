"""Planting: a month's files with defects, and the truth about them. The same seed gives the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.scorecard.files import FILE_KINDS, DayKind, FileKind, Files
from benchmarks.scorecard.kinds import CLAIMED, NEWEST, UNCLAIMED, Kind, Row

SEED = 2013
# A landed row: its file's name, and its number in the file, from 1.
Place = tuple[str, int]


@dataclass(frozen=True)
class Planted:
    """One defect: in a row, or in a file as a whole. ``instead`` is the row that is to be kept in its place."""

    kind: Kind | FileKind
    file: str
    row: int | None = None
    instead: Place | None = None


@dataclass(frozen=True)
class Month:
    """What is delivered: files by name, the defects in them, and every row that has part in one."""

    files: Files
    planted: tuple[Planted, ...] = ()
    touched: frozenset[Place] = frozenset()


@dataclass(eq=False)
class _Line:
    """A line to be: its values, the kind that was planted in it, and what came of that."""

    row: Row
    kind: Kind | None = None
    copy: _Line | None = None
    joined: _Line | None = None
    left_out: bool = False

    def text(self) -> str:
        return ",".join(self.row.values()) + "\n" + (self.joined.text() if self.joined else "")


def plant(files: Mapping[str, bytes], each: int, seed: int = SEED) -> Month:
    """Plant each kind of file once, each on a day of its own, and of each kind of row so many on the other days.

    No row has part in two defects.

    Raises:
        ValueError: there are too few days, or too few rows that can go wrong so.
    """
    chosen = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
    if len(files) <= len(FILE_KINDS):
        raise ValueError(f"{len(files)} days are too few: each of {len(FILE_KINDS)} kinds of files takes one.")
    days = dict(zip(chosen.sample(sorted(files), len(FILE_KINDS)), FILE_KINDS, strict=True))
    delivered: Files = {}
    planted: list[Planted] = []
    for name, kind in days.items():
        made = kind.change(name, files[name])
        delivered |= made
        planted += _in_file(kind, made)
    sheets = {name: _lines(content) for name, content in sorted(files.items()) if name not in days}
    _plant_rows(sheets, each, chosen)
    header = next(iter(files.values())).decode().partition("\n")[0]
    places: dict[_Line, Place] = {}
    for name, lines in sheets.items():
        there = [line for line in lines if not line.left_out]
        delivered[name] = f"{header}\n{''.join(line.text() for line in there)}".encode()
        places |= {line: (name, number) for number, line in enumerate(there, start=1)}
    planted += _in_rows(sheets, places)
    touched = {place for line, place in places.items() if line.kind}
    touched |= {place for one in planted if one.instead and one.row for place in ((one.file, one.row), one.instead)}
    return Month(delivered, tuple(planted), frozenset(touched))


def spoil_day(kind: DayKind, content: bytes) -> bytes:
    """A day's file in which all rows, or every so many, went wrong."""
    header, _, _ = content.decode().partition("\n")
    lines = _lines(content)
    for turn, line in enumerate(lines[:: kind.every]):
        kind.change(line.row, turn)
    return f"{header}\n{''.join(line.text() for line in lines)}".encode()


def read_days(folder: Path) -> Files:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def _lines(content: bytes) -> list[_Line]:
    header, *lines = content.decode().splitlines()
    columns = header.split(",")
    return [_Line(dict(zip(columns, line.split(","), strict=True))) for line in lines]


def _plant_rows(sheets: Mapping[str, list[_Line]], each: int, chosen: random.Random) -> None:
    following = dict(pair for lines in sheets.values() for pair in pairwise(lines))
    last = list(sheets.values())[-1]
    home = {line: lines for lines in sheets.values() for line in lines}
    free = list(home)
    chosen.shuffle(free)

    def fits(line: _Line, kind: Kind) -> bool:
        after = following.get(line)
        has_next = kind.joins is None or (after is not None and after.kind is None)
        return line.kind is None and kind.of(line.row) and has_next

    for kind in (*CLAIMED, *UNCLAIMED):
        fitting = filter(partial(fits, kind=kind), free)
        for turn in range(each):
            if (line := next(fitting, None)) is None:
                raise ValueError(f"There are not {each} rows for {kind.name!r}; deliver more days.")
            line.kind = kind
            if kind.how == "copy":
                line.copy = _Line(dict(line.row), kind)
                kind.change(line.copy.row, turn)
                (home[line], last)[turn % 2].append(line.copy)
                continue
            if kind.joins is not None:
                _join(line, following[line], kind.joins)
            kind.change(line.row, turn)
            line.left_out = kind.how == "drop"


def _join(line: _Line, after: _Line, column: str) -> None:
    """A quote opens the value of the column, and another one closes that of the next row."""
    after.kind, after.left_out, line.joined = line.kind, True, after
    line.row[column] = f'"{line.row[column]}'
    after.row[column] += '"'


def _in_file(kind: FileKind, made: Files) -> Iterator[Planted]:
    if kind.claim != NEWEST:
        yield Planted(kind, next(iter(made)))
        return
    first, second = made
    for row in range(1, made[first].count(b"\n")):
        yield Planted(kind, first, row, (second, row))


def _in_rows(sheets: Mapping[str, list[_Line]], places: Mapping[_Line, Place]) -> Iterator[Planted]:
    copies = {line.copy for lines in sheets.values() for line in lines if line.copy}
    for name, lines in sheets.items():
        for line in lines:
            if line.kind is None or line in copies:
                continue
            if line.kind.how == "drop":
                yield Planted(line.kind, name)
            elif line in places:  # the second line of a joined value is within the first
                yield Planted(line.kind, name, places[line][1], places[line.copy] if line.copy else None)
