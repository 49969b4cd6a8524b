"""Preview of a landed file: its columns by its first bytes, or by the footer of a Parquet file."""

from __future__ import annotations

from collections.abc import Mapping

from lakehouse.definitions.options import TextOptions
from lakehouse.definitions.sources import Source
from lakehouse.landing import schema_drift
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader import parquet_files
from lakehouse.landing.reader.columns import check_columns, check_first_record, resolve_header
from lakehouse.landing.reader.compression import UnpackLimits
from lakehouse.landing.reader.counting import open_text
from lakehouse.landing.reader.delimited import DelimitedReader
from lakehouse.landing.reader.json_records import JsonReader
from lakehouse.landing.reader.line_ends import unify_line_ends
from lakehouse.landing.reader.path_columns import read_path_columns
from lakehouse.landing.reader.rejection import RejectedFileError, explain_failure
from lakehouse.storage import location
from lakehouse.storage.location import Location


def preview_file(
    source: Source, file: LandedFile, landing: Location, limits: UnpackLimits
) -> tuple[str | None, Mapping[str, str] | None]:
    """Read the beginning of a file. A run reads the rest, and may still reject the file.

    Returns:
        The reason to reject the file, and its columns in order with their types, if they are not the declared ones.

    Raises:
        StorageError: the store cannot be reached.
    """
    try:
        read_path_columns(source, file.path)
        source = source.file_source
        columns = _preview_parquet(source, file, landing) if source.format == "parquet" else None
        columns = columns or _preview_text(source, file, landing, limits)
    except Exception as error:  # A reader may raise anything on a damaged file.
        return explain_failure(error), None
    return None, None if schema_drift.has_declared_schema(source, columns) else columns


def _preview_parquet(source: Source, file: LandedFile, landing: Location) -> dict[str, str]:
    with location.open_unlinked(landing, file.path) as content, parquet_files.open_parquet(content) as parquet:
        return parquet_files.resolve_schema(source, parquet.schema_arrow)


def _preview_text(source: Source, file: LandedFile, landing: Location, limits: UnpackLimits) -> dict[str, str]:
    options = TextOptions.parse(source.options)
    with open_text(file, landing, options, limits) as pieces:
        if source.format == "csv":
            reader = DelimitedReader(unify_line_ends(pieces)[0], options)
            if options.has_header:
                return resolve_header(source, reader.read_header())
            check_first_record(source, reader.read_first_record())
            return dict(source.columns)
        first = next(pieces, b"")
        is_whole = next(pieces, None) is None
        return _preview_json(source, first if is_whole else first[: first.rfind(b"\n") + 1], is_whole)


def _preview_json(source: Source, text: bytes, is_whole: bool) -> dict[str, str]:
    reader = JsonReader(source, [text])
    try:
        for _ in reader.read_records():
            pass
    except RejectedFileError:
        if is_whole:
            raise
        check_columns(source, reader.columns)
    return reader.columns
