"""Line ends of a CSV file. A carriage return alone ends a record only where the file has no line feed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.landing.reader.rejection import RejectedFileError


def unify_line_ends(pieces: Iterable[bytes]) -> tuple[Iterator[bytes], bool]:
    """Return text with line feeds as line ends, and whether they stand for carriage returns.

    The first pieces decide: they have a carriage return that ends a line, and no line feed.

    Raises:
        RejectedFileError: a line feed follows later (while the pieces are read).
    """
    rest = iter(pieces)
    head = list[bytes]()
    for piece in rest:
        head.append(piece)
        if b"\n" in piece:
            return chain(head, rest), False
        if b"\r" in b"".join(head)[:-1]:
            break
    if not any(b"\r" in piece for piece in head):
        return chain(head, rest), False
    return _replace_returns(chain(head, rest)), True


def _replace_returns(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if b"\n" in piece:
            raise RejectedFileError("has a line feed after lines that end with a carriage return alone")
        yield piece.replace(b"\r", b"\n")


def restore_returns(columns: Sequence[pa.Array]) -> list[pa.Array]:
    """Return texts with the carriage returns that line feeds stand for. Their file had no line feed."""
    return [pc.replace_substring(column, "\n", "\r") for column in columns]
