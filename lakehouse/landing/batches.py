"""Bounds of a batch of landed files. A run carries out several batches one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lakehouse.landing.manifest import LandedFile

MAX_FILES = 5_000
MAX_BYTES = 2 << 30
# Multiple of its size to which a file with such a name usually unpacks.
_UNPACKED_RATIOS = {".gz": 10, ".bz2": 10, ".zst": 10, ".zstd": 10, ".parquet": 4}


def split_into_batches(files: Iterable[LandedFile]) -> Iterator[tuple[LandedFile, ...]]:
    """Split files, in their order, into batches of at most 5,000 files and about 2 GiB unpacked, or one larger file."""
    batch, size = list[LandedFile](), 0
    for file in files:
        file_size = file.size * next((r for suffix, r in _UNPACKED_RATIOS.items() if file.path.endswith(suffix)), 1)
        if batch and (len(batch) == MAX_FILES or size + file_size > MAX_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(file)
        size += file_size
    if batch:
        yield tuple(batch)
