"""Landed text as UTF-8, whatever its declared encoding. Text that is plainly in another encoding is rejected."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

from lakehouse.landing.reader.rejection import RejectedFileError

BYTE_ORDER_MARK = "\ufeff".encode()
_OTHER_MARKS = {codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
# Control characters that ISO 8859 defines and no text has. Windows' encodings have letters and signs in their place.
_C1_CONTROLS = re.compile("[\x80-\x84\x86-\x9f]")


def read_utf8(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Yield text as valid UTF-8, without a byte order mark, in pieces of any length.

    Raises:
        UnicodeDecodeError: the text is not in the declared encoding.
        RejectedFileError: the text is plainly in another encoding.
    """
    pieces = _validate(chunks) if encoding in ("utf-8", "utf-8-sig") else _transcode(chunks, encoding)
    is_first = True
    for piece in pieces:
        text = piece.removeprefix(BYTE_ORDER_MARK) if is_first else piece
        is_first = is_first and not piece
        if text:
            yield text


def _validate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        _, length = codecs.utf_8_decode(data, "strict", False)
        rest = data[length:]
        yield data[:length]
    codecs.utf_8_decode(rest, "strict", True)


def _transcode(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    detector = _Utf8Detector()
    control = None
    is_first = True
    for chunk in chunks:
        if is_first:
            _check_mark(chunk, encoding)
            is_first = False
        detector.feed(chunk)
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            if detector.is_utf8():
                raise RejectedFileError(f"is UTF-8 text, declared {encoding}") from error
            raise
        if encoding.startswith("iso8859"):
            control = control or _C1_CONTROLS.search(text)
        yield text.encode("utf-8")
    yield decoder.decode(b"", final=True).encode("utf-8")
    if detector.is_utf8():
        raise RejectedFileError(f"is UTF-8 text, declared {encoding}")
    if control:
        raise RejectedFileError(f"is not {encoding} text: it has the control character {control[0]!r}")


def _check_mark(head: bytes, encoding: str) -> None:
    for mark, name in _OTHER_MARKS.items():
        if head.startswith(mark) and not encoding.startswith("utf"):
            raise RejectedFileError(f"is {name} text by its byte order mark, declared {encoding}")


class _Utf8Detector:
    """Detects text in UTF-8 that has characters beyond ASCII. Text in another encoding is hardly ever valid UTF-8."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.is_valid, self.is_ascii = True, True

    def feed(self, chunk: bytes) -> None:
        if not self.is_valid:
            return
        self.is_ascii = self.is_ascii and chunk.isascii()
        try:
            self.decoder.decode(chunk)
        except UnicodeDecodeError:
            self.is_valid = False

    def is_utf8(self) -> bool:
        if not self.is_valid or self.is_ascii:
            return False
        try:
            self.decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        return True
