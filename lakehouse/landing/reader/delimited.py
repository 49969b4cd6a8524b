"""Records of a CSV file, split strictly.

pyarrow splits text without quotes, and text with quotes only at the ends of values. It is lenient elsewhere:
Python's strict reader then decides. A blank line is no record. Line ends within quotes stay as landed. A carriage
return without a line feed is part of a value. Where a source declares an escape, it makes the quote or the escape
that follows it part of a value.
"""

from __future__ import annotations

import codecs
import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from lakehouse.definitions.options import TextOptions
from lakehouse.landing.reader.line_ends import restore_returns
from lakehouse.landing.reader.rejection import MAX_RECORD_BYTES, RejectedFileError

BLOCK_BYTES = 8 << 20
_LINE_FEED, _CARRIAGE_RETURN = 10, 13
# Stand for characters within a value while Python's reader splits. No valid text has a lone surrogate.
_MASKED_RETURN, _MASKED_QUOTE, _MASKED_ESCAPE = "\udc0d", "\udc22", "\udc5c"
_OPEN_QUOTE_AT_END = "unexpected end of data"
_CUT = "does not end with a line end; it may be cut within its last value"


@dataclass(frozen=True)
class Records:
    """Records of one block.

    Attributes:
        columns: the values by position in the file, null in a malformed record. An empty value is null.
        rows: the number of each record in the file, from 1.
        malformed: the text of each malformed record, null for the others; None if no record is malformed.
    """

    columns: Sequence[pa.Array]
    rows: pa.Array
    malformed: pa.Array | None

    def restore_returns(self) -> Records:
        """Return the records of a file whose line feeds stand for carriage returns."""
        malformed = self.malformed if self.malformed is None else restore_returns([self.malformed])[0]
        return Records(restore_returns(self.columns), self.rows, malformed)


class DelimitedReader:
    """Reads the header and then the records of one file.

    Args:
        pieces: the text in UTF-8, in pieces of any length.
        options: the separator, the quote and whether there is a header.
    """

    def __init__(self, pieces: Iterable[bytes], options: TextOptions) -> None:
        csv.field_size_limit(sys.maxsize)  # the length of a value has no limit of its own
        self.pieces = iter(pieces)
        self.options = options
        self.separator, self.quote = options.separator.encode(), options.quote.encode()
        self.mask = _Mask(options.quote, options.escape)
        self.carry = b""
        self.is_at_end = self.is_cut = False
        self.line_count = self.record_count = self.quote_count = 0
        # Where the first quote stands that the end of its value does not follow, and the problem.
        self.stray_quote: tuple[int, csv.Error] | None = None

    def read_first_record(self) -> list[str]:
        """Return the values of the first record, which stays to be read.

        Raises:
            RejectedFileError: the file is empty, or the first line is not a record.
        """
        self._fill(1)
        if not self.carry:
            raise RejectedFileError("is empty: not even a header" if self.options.has_header else "is empty")
        return self._parse_first_record()[0]

    def read_header(self) -> list[str]:
        """Read the first record, and continue after it.

        Raises:
            RejectedFileError: the file is empty, or the first line is not a record.
        """
        self.read_first_record()
        record, line_count, length = self._parse_first_record()
        first = self.carry[:length]
        self.is_cut = not first.endswith((b"\n", b"\r"))
        self.quote_count += self._count_quotes(first)
        self.carry, self.line_count = self.carry[length:], line_count
        return record

    def _parse_first_record(self) -> tuple[list[str], int, int]:
        """Return the values of the first record, and the number and length of the lines up to its end.

        A header is the first line. Without a header, blank lines may stand before the first record.
        """
        while True:
            lengths: list[int] = []
            reader = self._open_strict(map(self.mask.hide_escapes, _walk_lines(self.carry, lengths)))
            try:
                first: list[str] = next(reader if self.options.has_header else filter(None, reader), [])
                record = [self.mask.get_value(value) for value in first]
                if sum(lengths) < len(self.carry) or self.is_at_end:
                    return record, len(lengths), sum(lengths)
            except csv.Error as error:
                if "new-line character" in str(error):
                    raise RejectedFileError("has a carriage return alone as a line end") from error
                if str(error) != _OPEN_QUOTE_AT_END or self.is_at_end:
                    raise RejectedFileError(f"has a first line that is not a record ({error})") from error
            if len(self.carry) > MAX_RECORD_BYTES:
                raise RejectedFileError(f"has a first line of more than {MAX_RECORD_BYTES:,} bytes")
            self._fill(2 * len(self.carry))

    def read_records(self, column_count: int) -> Iterator[Records]:
        """Yield the records after the header, each with the given number of values or malformed.

        Raises:
            RejectedFileError: the file is cut, or has a quote that is never closed.
        """
        target = BLOCK_BYTES
        while True:
            self._fill(target)
            if not self.carry:
                break
            if self.is_at_end and self.carry.endswith(b"\r"):
                self.carry += b"\n"
            length, records = self._split_block(column_count)
            block, self.carry = self.carry[:length], self.carry[length:]
            self.line_count += block.count(b"\n")
            self.quote_count += self._count_quotes(block)
            if records is not None and len(records.rows):
                yield records
            if self.is_at_end and self.carry:
                self._reject_rest()
            target = BLOCK_BYTES if length else 2 * len(self.carry)
            if target > 2 * MAX_RECORD_BYTES:
                raise RejectedFileError(
                    f"has a record of more than {MAX_RECORD_BYTES:,} bytes, or a quote that is never closed, "
                    f"after line {self.line_count}"
                )
        if self.is_cut:
            raise RejectedFileError(_CUT)
        if self.stray_quote and self.quote_count % 2:
            self._reject_open_quote(*self.stray_quote)

    def _fill(self, length: int) -> None:
        """Read until the carried text has the given length, or the file ends."""
        pieces, size = [self.carry], len(self.carry)
        while size < length and not self.is_at_end:
            piece = next(self.pieces, None)
            if piece is None:
                self.is_at_end = True
            else:
                pieces.append(piece)
                size += len(piece)
        self.carry = b"".join(pieces)

    def _count_quotes(self, text: bytes) -> int:
        if self.mask.escape is None:
            return text.count(self.quote)
        return self.mask.hide_escapes(text.decode()).count(self.options.quote)

    def _reject_rest(self) -> None:
        if not self.carry.endswith(b"\n"):
            raise RejectedFileError(_CUT)
        self._reject_open_quote(self.line_count, _OPEN_QUOTE_AT_END)

    def _reject_open_quote(self, line: int, problem: object) -> None:
        raise RejectedFileError(f"has a quote that is never closed, after line {line} ({problem})")

    def _split_block(self, column_count: int) -> tuple[int, Records | None]:
        """Split the complete records of the carried text. Return also the length of their text."""
        length = self._find_plain_length()
        if length is None:
            return self._split_strictly(column_count)
        return length, self._split_by_arrow(self.carry[:length], column_count) if length else None

    def _find_plain_length(self) -> int | None:
        """Return the length of the complete records, if pyarrow splits them as strictly as Python's reader; or None."""
        if self.carry.count(b"\r") != self.carry.count(b"\r\n") + self.carry.endswith(b"\r"):
            return None
        if self.options.escape and self.options.escape.encode() in self.carry:
            return None
        if self.quote not in self.carry:
            return self.carry.rfind(b"\n") + 1
        return _find_quoted_length(self.carry, self.quote[0], self.separator[0])

    def _split_by_arrow(self, block: bytes, column_count: int) -> Records:
        bad: list[tuple[int, str]] = []

        def collect(row: pa_csv.InvalidRow) -> str:
            bad.append((row.number, row.text))
            return "skip"

        names = [str(number) for number in range(column_count)]
        # pyarrow drops a byte order mark at the start. Within a file, it is part of a value.
        text = codecs.BOM_UTF8 + block if block.startswith(codecs.BOM_UTF8) else block
        table = pa_csv.read_csv(
            pa.py_buffer(text),
            pa_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
            pa_csv.ParseOptions(
                delimiter=self.options.separator,
                quote_char=self.options.quote,
                double_quote=True,
                newlines_in_values=self.quote in block,
                invalid_row_handler=collect,
            ),
            pa_csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        return self._number([_combine(column) for column in table.columns], bad, table.num_rows)

    def _number(self, columns: list[pa.Array], bad: list[tuple[int, str]], good_count: int) -> Records:
        """Number the good and the malformed records of a block.

        Args:
            columns: the values of the good records.
            bad: the number within the block, and the text, of each malformed record.
            good_count: the number of good records.
        """
        count = good_count + len(bad)
        numbers = np.arange(self.record_count + 1, self.record_count + count + 1)
        self.record_count += count
        if not bad:
            return Records(columns, pa.array(numbers), None)
        at = np.array([number - 1 for number, _ in bad])
        indices = np.zeros(count, np.int64)
        indices[at] = -1
        is_bad = indices < 0
        indices[~is_bad] = np.arange(good_count)
        malformed: list[str | None] = [None] * count
        for number, text in bad:
            malformed[number - 1] = text
        take = pa.array(indices, mask=is_bad)
        return Records([column.take(take) for column in columns], pa.array(numbers), pa.array(malformed, pa.string()))

    def _split_strictly(self, column_count: int) -> tuple[int, Records]:
        """Split by Python's reader. A record that continues after the carried text is left."""
        end = self.carry.rfind(b"\n") + 1
        lines = _split_lines(self.carry[:end])
        has_returns = self.carry.count(b"\r") != self.carry.count(b"\r\n")
        is_masked = has_returns or self.mask.escape is not None
        texts = [self.mask.hide(line.decode()) for line in lines] if is_masked else [line.decode() for line in lines]
        reader = self._open_strict(texts)
        good: list[list[str]] = []
        bad: list[tuple[int, str]] = []
        rest = len(lines)
        while True:
            before = reader.line_num
            try:
                record = next(reader, None)
            except csv.Error as error:
                if str(error) == _OPEN_QUOTE_AT_END:
                    rest = before
                    break
                if reader.line_num > before + 1:
                    self._reject_open_quote(self.line_count + before, error)
                self.stray_quote = self.stray_quote or (self.line_count + before, error)
                bad.append((len(good) + len(bad) + 1, self.mask.get_original(texts[before])))
                continue
            if record is None:
                break
            if len(record) == column_count:
                good.append(record)
            elif record:
                bad.append((len(good) + len(bad) + 1, self.mask.get_original("".join(texts[before : reader.line_num]))))
        columns = [self._build_column(values, is_masked) for values in zip(*good, strict=True)]
        columns = columns or [pa.nulls(0, pa.string()) for _ in range(column_count)]
        return sum(map(len, lines[:rest])), self._number(columns, bad, len(good))

    def _build_column(self, values: Sequence[str], is_masked: bool) -> pa.Array:
        texts = map(self.mask.get_value, values) if is_masked else values
        return pa.array([text or None for text in texts], pa.string())

    def _open_strict(self, lines: Iterable[str]) -> Any:
        return csv.reader(lines, delimiter=self.options.separator, quotechar=self.options.quote, strict=True)


class _Mask:
    """Hides characters that are part of a value from Python's reader, and restores them.

    Args:
        quote: the quote.
        escape: makes the quote or escape that follows it part of a value; None if the source declares none.
    """

    def __init__(self, quote: str, escape: str | None) -> None:
        self.quote, self.escape = quote, escape
        self.pairs = re.compile(f"{re.escape(escape)}([{re.escape(quote + escape)}])") if escape else None
        self.values = str.maketrans({_MASKED_RETURN: "\r", _MASKED_QUOTE: quote, _MASKED_ESCAPE: escape})
        pair = escape or ""
        self.originals = str.maketrans({_MASKED_RETURN: "\r", _MASKED_QUOTE: pair + quote, _MASKED_ESCAPE: pair * 2})

    def hide(self, line: str) -> str:
        """Hide the carriage returns that no line feed follows, and the escaped characters."""
        end = "\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else ""
        return self.hide_escapes(line.removesuffix(end).replace("\r", _MASKED_RETURN) + end)

    def hide_escapes(self, line: str) -> str:
        """Hide the escaped characters."""
        if self.pairs is None:
            return line
        return self.pairs.sub(lambda pair: _MASKED_QUOTE if pair[1] == self.quote else _MASKED_ESCAPE, line)

    def get_value(self, text: str) -> str:
        """Return a value as it is."""
        return text.translate(self.values)

    def get_original(self, record: str) -> str:
        """Return the text of a record as landed, without its line end."""
        return record.removesuffix("\n").removesuffix("\r").translate(self.originals)


def _find_quoted_length(text: bytes, quote: int, separator: int) -> int | None:
    """Return the length of the complete records of a text with quotes; None if a quote stands within a value.

    Every other quote opens a value: it follows a separator, a line end or the quote that it escapes. The others close
    a value: a separator, a line end or a quote follows.
    """
    characters = np.frombuffer(text, np.uint8)
    quotes = np.flatnonzero(characters == quote)
    ends = np.flatnonzero(characters == _LINE_FEED)
    complete = ends[np.searchsorted(quotes, ends) % 2 == 0]
    length = int(complete[-1]) + 1 if len(complete) else 0
    opening, closing = quotes[0::2], quotes[1::2]
    before = characters[opening - 1]
    before[opening == 0] = _LINE_FEED
    follows_quote = np.zeros(len(opening), bool)
    follows_quote[1:] = opening[1:] - 1 == closing[: len(opening) - 1]
    is_opening = (before == separator) | (before == _LINE_FEED) | follows_quote
    after = characters[closing[closing + 1 < len(characters)] + 1]
    is_closing = (after == separator) | (after == _LINE_FEED) | (after == _CARRIAGE_RETURN) | (after == quote)
    return length if is_opening.all() and is_closing.all() else None


def _split_lines(text: bytes) -> list[bytes]:
    """Split at line feeds only, and keep them."""
    lines = text.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


def _walk_lines(text: bytes, lengths: list[int]) -> Iterator[str]:
    """Yield line after line, and note the length of each in bytes."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start) + 1 or len(text)
        lengths.append(end - start)
        yield text[start:end].decode()
        start = end


def _combine(column: pa.ChunkedArray) -> pa.Array:
    chunks = column.chunks
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks or [pa.nulls(0, pa.string())])
