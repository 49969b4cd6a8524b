"""Compressed files are read by their content; cut, damaged and inflated ones are rejected."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from io import BytesIO

import pyarrow as pa
import pytest

from lakehouse.definitions.sources import source
from lakehouse.landing.reader.compression import UnpackLimits
from tests.readings import read

ITEMS = source("raw.items", landing="items", columns=("id", "value"))
CONTENT = b"id,value\n" + b"".join(b"%d,%d\n" % (number, number * 7919 % 1000) for number in range(2000))


def pack_zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "zst": pack_zstd}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.{}"])
def test_content_decides_how_a_file_is_read(suffix: str, name: str) -> None:
    packed = PACKERS[suffix](CONTENT)
    rows = read(ITEMS, packed, name.format(suffix)).values("_row", "id", "value")
    assert rows == [(n + 1, str(n), str(n * 7919 % 1000)) for n in range(2000)]
    parts = PACKERS[suffix](CONTENT[:5000]) + PACKERS[suffix](CONTENT[5000:])
    assert read(ITEMS, parts).values("_row", "id", "value") == rows


@pytest.mark.parametrize("suffix", PACKERS)
def test_cut_or_damaged_compression_is_rejected(suffix: str) -> None:
    packed = PACKERS[suffix](CONTENT)
    for length in (20, 200, len(packed) // 2, len(packed) - 1):
        assert read(ITEMS, packed[:length]).reason == "ends before its compressed data does", length
        assert read(ITEMS, packed + packed[:length]).reason is not None, length
    assert (read(ITEMS, packed + b"rubbish").reason or "").startswith("cannot be read: ")
    if suffix == "zst":  # Its checksum is optional, and Arrow writes none.
        return
    damaged = packed[: len(packed) // 2] + bytes([packed[len(packed) // 2] ^ 4]) + packed[len(packed) // 2 + 1 :]
    assert read(ITEMS, damaged).reason is not None


def test_a_name_must_not_promise_another_compression() -> None:
    assert read(ITEMS, CONTENT, "a.csv.gz").reason == (
        "cannot be read: its name ends in .gz, but it is not compressed so"
    )
    assert read(ITEMS, gzip.compress(CONTENT), "a.csv.zst").reason == (
        "cannot be read: its name ends in .zst, but it is compressed as gzip"
    )
    for name in ("a.snappy", "a.lz4", "a.deflate", "a.bz2", "a.xz", "a.zip"):
        assert read(ITEMS, CONTENT, name).reason is not None


def test_other_compressions_are_named() -> None:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.csv", CONTENT)
    lz4 = pa.Codec("lz4").compress(CONTENT, asbytes=True)
    for content, codec in ((lzma.compress(CONTENT), "xz"), (archive.getvalue(), "zip"), (lz4, "lz4")):
        assert read(ITEMS, content).reason == (f"is compressed as {codec}; deliver it plain, or as gzip, bzip2 or zstd")


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_unpacks_too_far_is_rejected(suffix: str) -> None:
    content = b"id,value\n" + b"1,1\n" * 500_000
    packed = PACKERS[suffix](content)
    limit = max(200 * len(packed), 1 << 20)
    reason = f"unpacks to more than {limit:,} bytes, from {len(packed):,}"
    assert limit < len(content)
    assert read(ITEMS, packed).reason == reason
    small = UnpackLimits(max_bytes=5000)
    assert (read(ITEMS, PACKERS[suffix](CONTENT), limits=small).reason or "").startswith("unpacks to more than 5,000")
    assert read(ITEMS, CONTENT, limits=small).reason is None, "a plain file has no limit"
    assert read(ITEMS, PACKERS[suffix](content[:500_001])).reason is None, "a small file is no danger"
