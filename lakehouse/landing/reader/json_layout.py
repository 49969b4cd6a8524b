"""Records of a JSON file as texts: one on each line, the elements of one list, or objects over several lines.

A line feed ends a line. A carriage return alone ends one only in a file without any line feed, as in a CSV file. Other
characters that some programs take for line ends, such as U+2028, are part of a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder

from lakehouse.landing.reader.rejection import MAX_RECORD_BYTES, RejectedFileError

BLOCK_BYTES = 4 << 20
_WHITESPACE = b" \t\r\n"
_LINE_FEED, _RETURN = b"\n", b"\r"
# The first look at a value that may end on a later line.
_WINDOW_BYTES = 4 << 10
# Lines that are no record, but a piece of one: a closing bracket, a separator, or a key with its value.
_PIECE = re.compile(rb'[]},]|"[^"\\]*(?:\\.[^"\\]*)*"\s*:')
_PIECE_STARTS = (b"}", b"]", b",")
# It only finds the end of a value. A whole number of any length is a float, as Python limits the digits of others.
_DECODER = JSONDecoder(parse_int=float)
# The last characters of a text that is cut within a literal, such as -Infinity.
_LITERAL_LENGTH = 10


@dataclass(frozen=True)
class Texts:
    """Texts of consecutive records.

    Attributes:
        texts: the records, as landed.
        lines: the number of the line of each record, where each record is one line.
    """

    texts: list[bytes]
    lines: Sequence[int] | None = None


def split_records(pieces: Iterable[bytes]) -> Iterator[Texts]:
    """Split a JSON text in UTF-8 into its records. A line of spaces and tabs alone is no record.

    Raises:
        RejectedFileError: the file is empty, or its list or objects are cut or damaged.
    """
    source = _Buffer(iter(pieces))
    source.fill(1)
    if not source.text:
        raise RejectedFileError("is empty")
    while not (start := source.text.lstrip(_WHITESPACE)) and not source.is_at_end:
        source.fill(2 * len(source.text))
    if start.startswith(b"["):
        yield from _split_values(source, is_list=True)
    else:
        yield from _split_lines(source, _find_line_end(source))


class _Buffer:
    """Text that is read piece by piece. Each piece ends at the end of a character."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.text, self.is_at_end = pieces, b"", False

    def fill(self, length: int) -> None:
        """Read until the text has the given length, or the file ends."""
        if length > 2 * MAX_RECORD_BYTES:
            raise RejectedFileError(f"has a record of more than {MAX_RECORD_BYTES:,} bytes")
        parts, size = [self.text], len(self.text)
        while size < length and not self.is_at_end:
            piece = next(self.pieces, None)
            if piece is None:
                self.is_at_end = True
            else:
                parts.append(piece)
                size += len(piece)
        self.text = b"".join(parts)


def _find_line_end(source: _Buffer) -> bytes:
    """Return the line end of a file. It is a carriage return if the first lines end with one alone."""
    source.fill(BLOCK_BYTES)
    while _LINE_FEED not in source.text and _RETURN not in source.text[:-1] and not source.is_at_end:
        source.fill(2 * len(source.text))
    return _RETURN if _RETURN in source.text and _LINE_FEED not in source.text else _LINE_FEED


def _split_lines(source: _Buffer, line_end: bytes) -> Iterator[Texts]:
    """Split at line ends. From an object over several lines on, split object after object."""
    number, count = 0, 0
    target = BLOCK_BYTES
    while True:
        source.fill(target)
        if line_end == _RETURN and _LINE_FEED in source.text:
            raise RejectedFileError("has a line feed after lines that end with a carriage return alone")
        end = _find_block_end(source, line_end)
        target = BLOCK_BYTES if end else 2 * len(source.text)
        is_plain = _has_one_object_on_each_line(source.text, end, line_end)
        position = None if is_plain else _find_object_over_lines(source, end, line_end, number)
        length = end if position is None else position
        block, source.text = source.text[:length], source.text[length:]
        records = _list_objects(block, line_end, number) if is_plain else _list_records(block, line_end, number)
        number += block.count(line_end)
        count += len(records.texts)
        if records.texts:
            yield records
        if position is not None:
            yield from _split_values(source, is_list=False, count=count)
            return
        if source.is_at_end and not source.text:
            return


def _find_block_end(source: _Buffer, line_end: bytes) -> int:
    """Return the length of the complete lines, but for the last that is not blank: a later line may continue it."""
    if source.is_at_end:
        return len(source.text)
    text = source.text.rstrip() or source.text
    return text.rfind(line_end) + 1


def _list_objects(block: bytes, line_end: bytes, number: int) -> Texts:
    """Return the lines of a block with one object on each line. Blank lines may stand around them."""
    start = number + 1 + block[: block.index(b"{")].count(line_end)
    texts = block.strip(_WHITESPACE).split(line_end)
    if _RETURN in block:
        texts = [text.removesuffix(_RETURN) for text in texts]
    return Texts(texts, range(start, start + len(texts)))


def _list_records(block: bytes, line_end: bytes, number: int) -> Texts:
    """Return the lines of a block that are not blank."""
    lines = enumerate((line.removesuffix(_RETURN) for line in block.split(line_end)), start=number + 1)
    records = [(at, line) for at, line in lines if line.strip(_WHITESPACE)]
    return Texts([line for _, line in records], [at for at, _ in records])


def _has_one_object_on_each_line(text: bytes, end: int, line_end: bytes) -> bool:
    """Return whether each line begins and ends with a brace. Then none is a part of an object over several lines.

    Args:
        text: the text.
        end: the length of the complete lines.
    """
    lines, following = text[:end].strip(_WHITESPACE), text[end:].lstrip()[:1]
    pairs = lines.count(b"}" + line_end + b"{") or lines.count(b"}\r\n{")
    is_closed = lines.startswith(b"{") and lines.endswith(b"}") and following not in _PIECE_STARTS
    return is_closed and pairs == lines.count(line_end)


def _find_object_over_lines(source: _Buffer, end: int, line_end: bytes, number: int) -> int | None:
    """Return the position of the first object that begins on a line and ends on a later one; None without one.

    Args:
        end: the length of the complete lines.
        number: the number of lines before the text.

    Raises:
        RejectedFileError: a line is a piece of a damaged object, or begins a list.
    """
    lines = list(_list_positions(source.text[:end], line_end))
    next_starts = [*(text[:1] for _, _, text in lines[1:]), source.text[end:].lstrip()[:1]]
    for (at, position, text), following in zip(lines, next_starts, strict=False):
        if _PIECE.match(text):
            raise RejectedFileError(f"has a piece of a damaged record in line {number + at}")
        is_open = text.startswith((b"{", b"[")) and (not text.endswith(b"}") or following in _PIECE_STARTS)
        if is_open and _ends_on_later_line(source, position, line_end):
            if text.startswith(b"["):
                raise RejectedFileError(f"has a list in line {number + at} instead of one record")
            return position
    return None


def _list_positions(block: bytes, line_end: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number, the position and the text of each line that is not blank."""
    position = 0
    for at, line in enumerate(block.split(line_end), start=1):
        if text := line.strip():
            yield at, position, text
        position += len(line) + 1


def _ends_on_later_line(source: _Buffer, position: int, line_end: bytes) -> bool:
    """Return whether a value begins at a position, and ends on a later line."""
    size = _WINDOW_BYTES
    while True:
        end = source.text.find(line_end, position + size)
        window = source.text[position : None if end < 0 else end].decode()
        start = _skip_whitespace(window, 0)
        try:
            stop = _find_value_end(window, start)
            return line_end.decode() in window[start:stop]
        except JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated") or error.pos >= len(window) - _LITERAL_LENGTH
        if not is_cut or (end < 0 and source.is_at_end):
            return False
        size *= 2
        if end < 0:
            source.fill(2 * len(source.text))


def _split_values(source: _Buffer, is_list: bool, count: int = 0) -> Iterator[Texts]:
    """Split the elements of a list, or objects one after the other.

    Args:
        count: the number of records before them.
    """
    cursor = _Cursor(is_list, count)
    target = BLOCK_BYTES
    while True:
        source.fill(target)
        text = source.text.decode()
        position = cursor.advance(text, source.is_at_end)
        texts, cursor.texts = cursor.texts, []
        source.text = text[position:].encode()
        if texts:
            yield Texts(texts)
        if source.is_at_end:
            cursor.check_end(source.text)
            return
        target = BLOCK_BYTES if position else max(BLOCK_BYTES, 2 * len(source.text))


class _Cursor:
    """Walks over the values of a text that comes in parts.

    Attributes:
        count: the number of records.
        is_line_taken: the line is that of an object on one line. Another object must not follow there.
    """

    def __init__(self, is_list: bool, count: int) -> None:
        self.is_list, self.count = is_list, count
        self.state = "start" if is_list else "value"
        self.texts: list[bytes] = []
        self.is_line_taken = False

    def advance(self, text: str, is_last: bool) -> int:
        """Collect the complete values, and return the position after the last."""
        position = 0
        while True:
            start = _skip_whitespace(text, position)
            self.is_line_taken = self.is_line_taken and not _has_line_end(text[position:start])
            if start == len(text):
                return start
            if self.state in ("value", "first value") and text[start] != "]":
                end = self._find_end(text, start, is_last)
                if end is None:
                    return start
                self._add(text[start:end])
                position = end
            else:
                self._step(text[start])
                position = start + 1

    def _add(self, value: str) -> None:
        if self.is_line_taken and not self.is_list:
            raise RejectedFileError(f"has more than one record in the line of record {self.count}")
        self.texts.append(value.encode())
        self.count += 1
        self.is_line_taken = not _has_line_end(value)
        self.state = "separator" if self.is_list else "value"

    def _find_end(self, text: str, start: int, is_last: bool) -> int | None:
        try:
            end = _find_value_end(text, start)
        except JSONDecodeError as error:
            if is_last:
                raise RejectedFileError(f"has a damaged record after record {self.count} ({error.msg})") from error
            return None
        # A value that reaches the end of the text may go on.
        return end if end < len(text) or is_last else None

    def _step(self, character: str) -> None:
        following = {
            ("start", "["): "first value",
            ("first value", "]"): "end",
            ("separator", ","): "value",
            ("separator", "]"): "end",
        }.get((self.state, character))
        if following is None:
            raise RejectedFileError(f"has {character!r} after record {self.count}, where it does not belong")
        self.state = following

    def check_end(self, rest: bytes) -> None:
        """Check that the text ended after a whole value.

        Raises:
            RejectedFileError: the list is not closed.
        """
        if rest or (self.is_list and self.state != "end"):
            raise RejectedFileError(f"ends within its list, after record {self.count}")


def _find_value_end(text: str, start: int) -> int:
    """Return the position after the value that begins at a position.

    Raises:
        JSONDecodeError: there is no whole value.
        RejectedFileError: the value has more levels than Python can follow, about a thousand.
    """
    try:
        return _DECODER.raw_decode(text, start)[1]
    except RecursionError as error:
        raise RejectedFileError("has a record with too many levels, in a list or over several lines") from error


def _has_line_end(text: str) -> bool:
    return "\n" in text or "\r" in text


def _skip_whitespace(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def find_duplicate_key(text: bytes) -> str | None:
    """Return a key that an object of a JSON text has twice; None if there is none.

    Raises:
        ValueError: the text is not JSON.
    """
    duplicates: list[str] = []

    def check(pairs: list[tuple[str, object]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            duplicates.extend(key for key in keys if keys.count(key) > 1)

    json.loads(text, object_pairs_hook=check, parse_int=float)
    return duplicates[0] if duplicates else None
