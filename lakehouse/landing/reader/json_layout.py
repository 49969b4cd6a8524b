"""Records of a JSON file as texts: one on each line, the elements of one list, or objects over several lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder

from lakehouse.landing.reader.rejection import MAX_RECORD_BYTES, RejectedFileError

BLOCK_BYTES = 4 << 20
_WHITESPACE = " \t\r\n"
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
    lines: list[int] | None = None


def split_records(pieces: Iterable[bytes]) -> Iterator[Texts]:
    """Split a JSON text in UTF-8 into its records. A blank line is no record.

    Raises:
        RejectedFileError: the file is empty, or its list or objects are cut or damaged.
    """
    source = _Buffer(iter(pieces))
    source.fill(1)
    if not source.text:
        raise RejectedFileError("is empty")
    while not (start := source.text.lstrip(_WHITESPACE.encode())) and not source.is_at_end:
        source.fill(2 * len(source.text))
    if start.startswith(b"["):
        yield from _split_values(source, is_list=True)
    elif _has_objects_over_lines(source):
        yield from _split_values(source, is_list=False)
    else:
        yield from _split_lines(source)


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


def _has_objects_over_lines(source: _Buffer) -> bool:
    """Return whether the first line is no JSON value, but begins an object that ends on a later line."""
    while True:
        text = source.text.decode()
        start = text.lstrip(_WHITESPACE)
        if not start.startswith("{"):
            return False
        line = start.splitlines()[0]
        try:
            _DECODER.raw_decode(line)
            return False
        except JSONDecodeError:
            pass
        try:
            _DECODER.raw_decode(start)
            return True
        except JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated") or error.pos >= len(start) - _LITERAL_LENGTH
            if source.is_at_end or not is_cut:
                return False
        source.fill(2 * len(source.text))


def _split_lines(source: _Buffer) -> Iterator[Texts]:
    number = 0
    target = BLOCK_BYTES
    while True:
        source.fill(target)
        end = len(source.text) if source.is_at_end else source.text.rfind(b"\n") + 1
        target = BLOCK_BYTES if end else 2 * len(source.text)
        block, source.text = source.text[:end], source.text[end:]
        lines = block.splitlines()
        records = [(number + at, line) for at, line in enumerate(lines, start=1) if line and not line.isspace()]
        number += len(lines)
        if records:
            yield Texts([line for _, line in records], [at for at, _ in records])
        if source.is_at_end:
            return


def _split_values(source: _Buffer, is_list: bool) -> Iterator[Texts]:
    """Split the elements of a list, or objects one after the other."""
    cursor = _Cursor(is_list)
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
    """Walks over the values of a text that comes in parts."""

    def __init__(self, is_list: bool) -> None:
        self.is_list = is_list
        self.state = "start" if is_list else "value"
        self.count = 0
        self.texts: list[bytes] = []

    def advance(self, text: str, is_last: bool) -> int:
        """Collect the complete values, and return the position after the last."""
        position = 0
        while True:
            start = _skip_whitespace(text, position)
            if start == len(text):
                return start
            if self.state in ("value", "first value") and text[start] != "]":
                end = self._find_end(text, start, is_last)
                if end is None:
                    return start
                self.texts.append(text[start:end].encode())
                self.count += 1
                self.state = "separator" if self.is_list else "value"
                position = end
            else:
                self._step(text[start])
                position = start + 1

    def _find_end(self, text: str, start: int, is_last: bool) -> int | None:
        try:
            _, end = _DECODER.raw_decode(text, start)
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


def _skip_whitespace(text: str, position: int) -> int:
    while position < len(text) and text[position] in _WHITESPACE:
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
