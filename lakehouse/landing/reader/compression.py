"""Detection of compression by content, and decompression of landed text, with a limit to what a file may unpack to."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from lakehouse.landing.reader.rejection import RejectedFileError

CHUNK_BYTES = 1 << 20
# First bytes of compressed content. No text begins with them: most have a control character, the others are no words.
_READABLE = {
    b"\x1f\x8b\x08": "gzip",
    **{b"BZh%d1AY&SY" % level: "bz2" for level in range(1, 10)},
    **{b"BZh%d\x17rE8P\x90" % level: "bz2" for level in range(1, 10)},
    b"\x28\xb5\x2f\xfd": "zstd",
    **{bytes([first]) + b"\x2a\x4d\x18": "zstd" for first in range(0x50, 0x60)},
}
_UNREADABLE = {
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xff\x06\0\0sNaPpY": "snappy",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    **{bytes([0x1F, 0x9D, block | bits]): "compress" for block in (0, 0x80) for bits in range(9, 17)},
    **{b"LZIP" + bytes([version]): "lzip" for version in (0, 1)},
}
# Names that promise compressed content.
_SUFFIXES = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".xz": "xz",
    ".zip": "zip",
    ".lz4": "lz4",
    ".snappy": "snappy",
    ".deflate": "deflate",
}
_MAGIC_BYTES = 16


@dataclass(frozen=True)
class UnpackLimits:
    """Limits to the unpacked size of a file, against files that are small only when packed.

    Attributes:
        max_bytes: the largest unpacked size.
        max_ratio: the largest multiple of the packed size. Less than `free_bytes` is always accepted.
    """

    max_bytes: int = 8 << 30
    max_ratio: int = 200
    free_bytes: int = 1 << 20

    def compute(self, packed_bytes: int) -> int:
        """Return the number of bytes to which a compressed file may unpack."""
        return min(self.max_bytes, max(self.free_bytes, self.max_ratio * packed_bytes))


DEFAULT_LIMITS = UnpackLimits()


def read_unpacked(file: BinaryIO, name: str, size: int, limits: UnpackLimits) -> Iterator[bytes]:
    """Yield the content of a file, decompressed where its first bytes say so.

    Args:
        file: the file, open at its start.
        name: its name. A name that promises another compression than the content has is a reason to reject the file.
        size: its size in bytes, as it lies in the store.

    Raises:
        RejectedFileError: the file is compressed otherwise, or unpacks to more than the limits.
        EOFError: the compressed data is cut.
    """
    head = file.read(_MAGIC_BYTES)
    file.seek(0)
    codec = detect_compression(head, name)
    limit = limits.compute(size)
    total = 0
    for chunk in _read_chunks(file, codec):
        total += len(chunk)
        if codec and total > limit:
            raise RejectedFileError(f"unpacks to more than {limit:,} bytes, from {size:,}")
        yield chunk


def detect_compression(head: bytes, name: str) -> str | None:
    """Return the compression of a file with these first bytes; None for plain content.

    Raises:
        RejectedFileError: the platform does not read the compression, or the name promises another one.
    """
    if unreadable := _find_codec(head, _UNREADABLE):
        raise RejectedFileError(f"is compressed as {unreadable}; deliver it plain, or as gzip, bzip2 or zstd")
    actual = _find_codec(head, _READABLE)
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    if suffix and _SUFFIXES[suffix] != actual:
        content = f"compressed as {actual}" if actual else "not compressed so"
        raise RejectedFileError(f"cannot be read: its name ends in {suffix}, but it is {content}")
    return actual


def check_uncompressed(file: BinaryIO) -> None:
    """Check that a Parquet file is not compressed as a whole.

    Raises:
        RejectedFileError: the file is compressed as a whole.
    """
    head = file.read(_MAGIC_BYTES)
    file.seek(0)
    if codec := _find_codec(head, _READABLE | _UNREADABLE):
        raise RejectedFileError(f"is compressed as {codec}; deliver it plain, as Parquet compresses the values within")


def _find_codec(head: bytes, codecs: Mapping[bytes, str]) -> str | None:
    return next((codec for magic, codec in codecs.items() if head.startswith(magic)), None)


def _read_chunks(file: BinaryIO, codec: str | None) -> Iterator[bytes]:
    if codec is None or codec == "gzip":
        stream = gzip.GzipFile(fileobj=file) if codec else file
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
        return
    with pa.CompressedInputStream(pa.PythonFile(file, "r"), codec) as unpacked:
        while chunk := _read_piece(unpacked):
            yield chunk


def _read_piece(stream: pa.NativeFile) -> bytes:
    try:
        return bytes(stream.read(CHUNK_BYTES))
    except OSError as error:
        if "Truncated compressed stream" in str(error):
            raise EOFError(str(error)) from error
        raise
