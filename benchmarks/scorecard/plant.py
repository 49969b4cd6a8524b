"""A month's files with planted defects, and the list of these defects. The same seed gives the same bytes."""

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
    """One defect, in a row or in a whole file.

    Attributes:
        instead: the row that the table must publish in its place.
    """

    kind: Kind | FileKind
    file: str
    row: int | None = None
    instead: Place | None = None


@dataclass(frozen=True)
class Month:
    """A delivery: files by name, their defects, and every row with part in a defect."""

    files: Files
    planted: tuple[Planted, ...] = ()
    touched: frozenset[Place] = frozenset()


@dataclass(eq=False)
class _Line:
    """A line of a file before it is written: its values, and the defect that is planted in it."""

    row: Row
    kind: Kind | None = None
    copy: _Line | None = None
    joined: _Line | None = None
    is_left_out: bool = False

    def render(self) -> str:
        return ",".join(self.row.values()) + "\n" + (self.joined.render() if self.joined else "")


def plant_defects(files: Mapping[str, bytes], each: int, seed: int = SEED) -> Month:
    """Plant each kind of file once, on separate days, and ``each`` defects of each kind of row on the other days.

    No row has part in two defects.

    Raises:
        ValueError: there are too few days, or too few rows that fit a kind.
    """
    generator = random.Random(seed)  # noqa: S311  # repeatable, not secret
    if len(files) <= len(FILE_KINDS):
        raise ValueError(
            f"Files: {len(files)} days are too few for {len(FILE_KINDS)} kinds of files. Deliver more days."
        )
    days = dict(zip(generator.sample(sorted(files), len(FILE_KINDS)), FILE_KINDS, strict=True))
    delivered: Files = {}
    planted: list[Planted] = []
    for name, kind in days.items():
        changed = kind.change(name, files[name])
        delivered |= changed
        planted += _list_file_defects(kind, changed)
    sheets = {name: _parse_lines(content) for name, content in sorted(files.items()) if name not in days}
    _plant_rows(sheets, each, generator)
    header = next(iter(files.values())).decode().partition("\n")[0]
    places: dict[_Line, Place] = {}
    for name, lines in sheets.items():
        delivered_lines = [line for line in lines if not line.is_left_out]
        delivered[name] = f"{header}\n{''.join(line.render() for line in delivered_lines)}".encode()
        places |= {line: (name, number) for number, line in enumerate(delivered_lines, start=1)}
    planted += _list_row_defects(sheets, places)
    touched = {place for line, place in places.items() if line.kind}
    for defect in planted:
        if defect.instead and defect.row:
            touched |= {(defect.file, defect.row), defect.instead}
    return Month(delivered, tuple(planted), frozenset(touched))


def spoil_day(kind: DayKind, content: bytes) -> bytes:
    """Return a day's file with the defect in all rows, or in every ``kind.every``-th row."""
    header, _, _ = content.decode().partition("\n")
    lines = _parse_lines(content)
    for turn, line in enumerate(lines[:: kind.every]):
        kind.change(line.row, turn)
    return f"{header}\n{''.join(line.render() for line in lines)}".encode()


def read_days(folder: Path) -> Files:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def _parse_lines(content: bytes) -> list[_Line]:
    header, *lines = content.decode().splitlines()
    columns = header.split(",")
    return [_Line(dict(zip(columns, line.split(","), strict=True))) for line in lines]


def _plant_rows(sheets: Mapping[str, list[_Line]], each: int, generator: random.Random) -> None:
    following = dict(pair for lines in sheets.values() for pair in pairwise(lines))
    last = list(sheets.values())[-1]
    home = {line: lines for lines in sheets.values() for line in lines}
    free = list(home)
    generator.shuffle(free)

    def fits(line: _Line, kind: Kind) -> bool:
        after = following.get(line)
        has_next = kind.joins is None or (after is not None and after.kind is None)
        return line.kind is None and kind.of(line.row) and has_next

    for kind in (*CLAIMED, *UNCLAIMED):
        fitting = filter(partial(fits, kind=kind), free)
        for turn in range(each):
            if (line := next(fitting, None)) is None:
                raise ValueError(f"Kind {kind.name!r}: fewer than {each} rows fit. Deliver more days.")
            line.kind = kind
            if kind.how == "copy":
                line.copy = _Line(dict(line.row), kind)
                kind.change(line.copy.row, turn)
                (home[line], last)[turn % 2].append(line.copy)
                continue
            if kind.joins is not None:
                _join(line, following[line], kind.joins)
            kind.change(line.row, turn)
            line.is_left_out = kind.how == "drop"


def _join(line: _Line, after: _Line, column: str) -> None:
    """Open the value of the column with a quote, and close it with another one in the next row."""
    after.kind, after.is_left_out, line.joined = line.kind, True, after
    line.row[column] = f'"{line.row[column]}'
    after.row[column] += '"'


def _list_file_defects(kind: FileKind, changed: Files) -> Iterator[Planted]:
    if kind.claim != NEWEST:
        yield Planted(kind, next(iter(changed)))
        return
    first, second = changed
    for row in range(1, changed[first].count(b"\n")):
        yield Planted(kind, first, row, (second, row))


def _list_row_defects(sheets: Mapping[str, list[_Line]], places: Mapping[_Line, Place]) -> Iterator[Planted]:
    copies = {line.copy for lines in sheets.values() for line in lines if line.copy}
    for name, lines in sheets.items():
        for line in lines:
            if line.kind is None or line in copies:
                continue
            if line.kind.how == "drop":
                yield Planted(line.kind, name)
            elif line in places:  # the second line of a joined value is within the first
                yield Planted(line.kind, name, places[line][1], places[line.copy] if line.copy else None)
