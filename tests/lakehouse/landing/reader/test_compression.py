"""Compressed files are read by their content; cut, damaged and inflated ones are rejected."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.definitions.sources import source
from lakehouse.landing.reader.compression import DEFAULT_LIMITS, UnpackLimits
from lakehouse.landing.reader.preview import preview_file
from tests.readings import landed, read

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


FIRST_BYTES = [
    (b"\xfd7zXZ\0", "xz"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xff\x06\0\0sNaPpY", "snappy"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x1f\x9d\x90", "compress"),
    (b"\x1f\x9d\x0c", "compress"),
    (b"LZIP\x00", "lzip"),
    (b"LZIP\x01", "lzip"),
]


@pytest.mark.parametrize(("magic", "codec"), FIRST_BYTES)
def test_first_bytes_name_the_compression(magic: bytes, codec: str) -> None:
    reason = f"is compressed as {codec}; deliver it plain, or as gzip, bzip2 or zstd"
    assert read(ITEMS, magic + bytes(100)).reason == reason


@pytest.mark.parametrize("name", ["PK", "PK\t", "sNaPpY", "7z", "7z¼¯'", "Rar!", "LZIP", "LZIP_CODE", "BZh9", "(µ/"])
def test_names_that_begin_alike_are_text(name: str) -> None:
    declared = source("raw.items", landing="items", columns=("id", "value"), header_names={"id": name})
    assert read(declared, f"{name},value\n1,2\n").values("id", "value") == [("1", "2")]


def test_letters_of_utf16_are_no_compression() -> None:
    for letter in ("\u9d1f", "\u8b1f"):  # in bytes 1f 9d and 1f 8b, the first of compress and gzip
        names = {"id": letter}
        declared = source(
            "raw.items", landing="items", columns=("id", "value"), header_names=names, options={"encoding": "utf-16-le"}
        )
        assert read(declared, f"{letter},value\n1,2\n".encode("utf-16-le")).values("id", "value") == [("1", "2")]


def test_a_packed_parquet_file_is_named() -> None:
    buffer, archive = BytesIO(), BytesIO()
    pq.write_table(pa.table({"id": pa.array([1])}), buffer)
    content = buffer.getvalue()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.parquet", content)
    declared = source("raw.items", landing="items", columns={"id": "bigint"}, format="parquet")
    packed = {"gzip": gzip.compress(content), "bz2": bz2.compress(content), "zstd": pack_zstd(content)}
    for codec, data in {**packed, "xz": lzma.compress(content), "zip": archive.getvalue()}.items():
        reason = f"is compressed as {codec}; deliver it plain, as Parquet compresses the values within"
        assert read(declared, data, "a.parquet").reason == reason
        with landed(data) as (landing, file):
            assert preview_file(declared, file, landing, DEFAULT_LIMITS) == (reason, None)
    assert read(declared, content, "a.parquet").values("id") == [(1,)]


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
