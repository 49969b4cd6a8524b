"""Number of records in a landed file, whatever columns are declared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from lakehouse.definitions.options import TextOptions
from lakehouse.definitions.sources import Source
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader.compression import DEFAULT_LIMITS, UnpackLimits, check_uncompressed, read_unpacked
from lakehouse.landing.reader.delimited import DelimitedReader
from lakehouse.landing.reader.json_layout import split_records
from lakehouse.landing.reader.line_ends import unify_line_ends
from lakehouse.landing.reader.text import read_utf8
from lakehouse.storage import location
from lakehouse.storage.location import Location


def count_records(source: Source, file: LandedFile, landing: Location, limits: UnpackLimits = DEFAULT_LIMITS) -> int:
    """Count the records of a file, malformed ones among them.

    Raises:
        Exception: the file cannot be read (`lakehouse.landing.reader.rejection.explain_failure`).
    """
    if source.format == "parquet":
        with location.open_unlinked(landing, file.path) as content:
            check_uncompressed(content)
            return int(pq.read_metadata(content).num_rows)
    options = TextOptions.parse(source.options)
    with open_text(file, landing, options, limits) as pieces:
        if source.format == "json":
            return sum(len(records.texts) for records in split_records(pieces))
        reader = DelimitedReader(unify_line_ends(pieces)[0], options)
        first = reader.read_header() if options.has_header else reader.read_first_record()
        return sum(len(records.rows) for records in reader.read_records(len(first) or 1))


@contextmanager
def open_text(
    file: LandedFile, landing: Location, options: TextOptions, limits: UnpackLimits
) -> Iterator[Iterator[bytes]]:
    """Open a text file as pieces of UTF-8."""
    with location.open_unlinked(landing, file.path) as content:
        yield read_utf8(read_unpacked(content, file.path, file.size, limits), options.encoding)
