"""Records of a batch of landed files, each with its file and its row."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import pyarrow as pa
from pyspark.sql import functions as F

from lakehouse.definitions.identifiers import quote_identifier
from lakehouse.definitions.options import get_quote
from lakehouse.definitions.sources import MALFORMED, Source
from lakehouse.engine.spark import schema_drift
from lakehouse.landing import schema_drift as drift
from lakehouse.landing.manifest import LandedFile, Manifest
from lakehouse.storage.location import Location, to_spark_uri
from lakehouse.storage.s3 import S3Path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Landed bytes per task and per file of the bronze table.
CHUNK_BYTES = 32 << 20
# Spark keeps a parser for each file of a task until the task ends, by default with megabytes of buffer.
PARSER_BUFFER_CHARS = 1 << 14
_RECORD_BITS = (1 << 33) - 1


def read_batch(
    spark: SparkSession,
    source: Source,
    manifest: Manifest,
    landing: Location,
    existing_columns: Mapping[str, str] | None = None,
) -> DataFrame:
    """Read the records of a batch's files, in the order of their paths, with the landing columns.

    One task reads each file from its start, because `_row` is the record's number in the file. Each task reads a
    chunk of files with adjacent paths, because rows delivered together should lie together in the table.

    Args:
        existing_columns: Columns of the table with their types. A column that a contract added keeps its type.
    """
    reading = _open_read_session(spark, manifest)
    added = find_added_columns(source, manifest, existing_columns or {})
    parts = [
        schema_drift.conform_rows(source, columns, added, _read_files(reading, source, columns, chunk, landing))
        for columns, files in _group_by_columns(source, manifest.files)
        for chunk in split_into_chunks(files)
    ]
    # True where columns' names differ only in case: the write must distinguish them, too.
    spark.conf.set("spark.sql.caseSensitive", str(reading.conf.get("spark.sql.caseSensitive")))
    # Spark 4.1 would read parts of one partition each in one task.
    spark.conf.set("spark.sql.unionOutputPartitioning", "false")
    rows = parts[0]
    for part in parts[1:]:
        rows = rows.unionByName(part)
    batch = {
        "_batch_id": F.lit(manifest.batch).cast("bigint"),
        "_ingested_at": F.lit(datetime.fromisoformat(manifest.created_at)),
    }
    # The join's left side sets the session: from here on it is the table's.
    records = F.broadcast(_list_files(spark, manifest, landing)).join(rows, "_path", "right")
    unknown = F.raise_error(F.concat(F.lit("rows were read from a file that is not in the batch: "), "_path"))
    records = records.withColumn("_file_id", F.when(F.col("_file_id").isNull(), unknown).otherwise(F.col("_file_id")))
    return records.withColumns(batch).select(*source.columns, *added, *source.platform_columns)


def _open_read_session(spark: SparkSession, manifest: Manifest) -> SparkSession:
    """Open a session that reads each file of a batch by one task.

    The session is for landed files only: it would split larger files, such as Delta's logs, into pieces of their size.
    """
    session = spark.newSession()
    # A partition closes when the next file no longer fits.
    largest = str(max(file.size for file in manifest.files) + 1)
    session.conf.set("spark.sql.files.maxPartitionBytes", largest)
    session.conf.set("spark.sql.files.openCostInBytes", largest)
    session.conf.set("spark.sql.sources.parallelPartitionDiscovery.threshold", str(len(manifest.files) + 1))
    return session


def find_added_columns(source: Source, manifest: Manifest, existing_columns: Mapping[str, str]) -> dict[str, str]:
    """Return the undeclared columns of a batch's files that the contract adds, with their types in the table."""
    added: dict[str, str] = {}
    names = {c.lower(): c for c in existing_columns}
    for file in manifest.files:
        for name, kind in drift.find_added_columns(source, file.columns or source.columns).items():
            # Among names that differ only in case, the first becomes the table's column.
            if names.setdefault(name.lower(), name) == name:
                added.setdefault(name, existing_columns.get(name, kind))
    return added


def _group_by_columns(source: Source, files: Iterable[LandedFile]) -> list[tuple[Mapping[str, str], list[LandedFile]]]:
    """Group the files by their columns."""
    groups: dict[str, tuple[Mapping[str, str], list[LandedFile]]] = {}
    for file in files:
        columns = file.columns or source.columns
        groups.setdefault(json.dumps(list(columns.items())), (columns, []))[1].append(file)
    return list(groups.values())


def split_into_chunks(files: Sequence[LandedFile], size: int = CHUNK_BYTES) -> list[list[LandedFile]]:
    """Split files by path into chunks of about the same size, at least two if there are two files."""
    ordered = sorted(files, key=lambda file: file.path)
    total = sum(file.size for file in ordered)
    count = min(len(ordered), max(2, -(-total // size)))
    chunks: list[list[LandedFile]] = [[] for _ in range(count)]
    start = 0
    for file in ordered:
        chunks[min(count - 1, start * count // max(total, 1))].append(file)
        start += file.size
    return [chunk for chunk in chunks if chunk]


def _read_files(
    spark: SparkSession, source: Source, columns: Mapping[str, str], files: Sequence[LandedFile], landing: Location
) -> DataFrame:
    """Read the files' records with their columns named by position (`schema_drift.make_positional_name`).

    So no name in a file can clash with a name of the platform.
    """
    # Columns of a CSV file are read by position. Columns without any value are not read.
    positions = [
        (number, f"_c{number}" if source.format == "csv" else name, kind)
        for number, (name, kind) in enumerate(columns.items())
        if kind != drift.VOID
    ]
    paths = [_escape_glob(to_spark_uri(landing / file.path)) for file in files]
    records, malformed = _read_records(spark, source, {name: kind for _, name, kind in positions}, paths)
    # Records are numbered before files share a task, so that the numbers of each file start at 1.
    numbered = records.select(
        *[
            F.col(quote_identifier(name)).alias(schema_drift.make_positional_name(number))
            for number, name, _ in positions
        ],
        *([F.col(malformed).alias(MALFORMED)] if malformed else []),
        records.metadataColumn("_metadata").getField("file_path").alias("_path"),
        (F.monotonically_increasing_id().bitwiseAND(_RECORD_BITS) + 1).alias("_row"),
    )
    return numbered.coalesce(1)


def _list_files(spark: SparkSession, manifest: Manifest, landing: Location) -> DataFrame:
    return spark.createDataFrame(
        pa.table(
            {
                "_path": [_to_metadata_uri(landing / file.path) for file in manifest.files],
                "_file_id": [file.file_id for file in manifest.files],
                "_source_file": [file.path for file in manifest.files],
            }
        )
    )


def _read_records(
    spark: SparkSession, source: Source, columns: Mapping[str, str], paths: list[str]
) -> tuple[DataFrame, str | None]:
    """Read the files' records. Return also the name of the column with malformed lines, if the format has one."""
    lower = {name.lower() for name in columns}
    if len(lower) < len(columns):
        spark.conf.set("spark.sql.caseSensitive", "true")
    fields = [f"{quote_identifier(name)} {kind}" for name, kind in columns.items()]
    if source.format == "parquet":
        return spark.read.schema(", ".join(fields)).options(**source.options).parquet(*paths), None
    malformed = MALFORMED
    while malformed in lower:
        malformed += "_"
    schema = ", ".join([*fields, f"`{malformed}` string"])
    reader = spark.read.schema(schema).option("columnNameOfCorruptRecord", malformed).option("mode", "PERMISSIVE")
    if source.format == "json":  # strict, as in the inspection of the file
        return reader.option("allowSingleQuotes", "false").options(**source.options).json(paths), malformed
    # A quote within a value is doubled.
    defaults = {"header": "true", "escape": get_quote(source.options), "multiLine": "true", "enforceSchema": "true"}
    defaults["inputBufferSize"] = str(PARSER_BUFFER_CHARS)
    return reader.options(**defaults).options(**source.options).csv(paths), malformed


def _escape_glob(path: str) -> str:
    """Escape the characters that Hadoop would read as a pattern."""
    return re.sub(r"([\\\[\]{}*?])", r"\\\1", path)


def _to_metadata_uri(file: Location) -> str:
    """Return the path as in `_metadata.file_path`: a java.net.URI, which escapes other characters than RFC 3986."""
    scheme = "" if isinstance(file, S3Path) else "file:"
    return scheme + "".join(c if _is_unescaped(c) else quote(c, safe="/_-!.~'()*,;:$&+=@") for c in to_spark_uri(file))


def _is_unescaped(character: str) -> bool:
    """Return True for characters beyond ASCII that a java.net.URI does not escape: no space, no control character."""
    return ord(character) > 127 and unicodedata.category(character) not in ("Zs", "Zl", "Zp", "Cc")
