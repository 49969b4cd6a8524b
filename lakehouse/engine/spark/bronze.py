"""Bronze: one append per batch of landed files, every record with the file and the row that it came from."""

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
from lakehouse.definitions.sources import MALFORMED, Source
from lakehouse.engine.spark import conformance
from lakehouse.landing import conformance as drift
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
    """The records of a batch's files, in the order of their paths, with the landing columns.

    Every file is read by one task from its start, so that `_row` is the record's number in the file; runs of files by
    path make one task each, so that rows delivered together lie together in the table. ``there`` are the columns of the
    table: one that a contract added before keeps its type.
    """
    reading = _open_read_session(spark, manifest)
    added = added_columns(source, manifest, existing_columns or {})
    parts = [
        conformance.conform_rows(source, columns, added, _read_files(reading, source, columns, chunk, landing))
        for columns, files in _group_by_columns(source, manifest.files)
        for chunk in split_into_chunks(files)
    ]
    # True where columns' names differ only in case: the write has to tell them apart, too.
    spark.conf.set("spark.sql.caseSensitive", str(reading.conf.get("spark.sql.caseSensitive")))
    # Spark 4.1 makes one task of parts that are one partition each.
    spark.conf.set("spark.sql.unionOutputPartitioning", "false")
    rows = parts[0]
    for part in parts[1:]:
        rows = rows.unionByName(part)
    batch = {
        "_batch_id": F.lit(manifest.batch).cast("bigint"),
        "_ingested_at": F.lit(datetime.fromisoformat(manifest.created_at)),
    }
    # From here on in the table's session, which is that of a join's left side.
    named = F.broadcast(_file_table(spark, manifest, landing)).join(rows, "_path", "right")
    unknown = F.raise_error(F.concat(F.lit("rows were read from a file of another name than was asked for: "), "_path"))
    named = named.withColumn("_file_id", F.when(F.col("_file_id").isNull(), unknown).otherwise(F.col("_file_id")))
    return named.withColumns(batch).select(*source.columns, *added, *source.platform_columns)


def _open_read_session(spark: SparkSession, manifest: Manifest) -> SparkSession:
    """A session that reads each of a batch's files by one task; any other, such as Delta's logs, it would cut into pieces as small as they are."""
    session = spark.newSession()
    # A partition closes when the next file no longer fits.
    largest = str(max(one.size for one in manifest.files) + 1)
    session.conf.set("spark.sql.files.maxPartitionBytes", largest)
    session.conf.set("spark.sql.files.openCostInBytes", largest)
    session.conf.set("spark.sql.sources.parallelPartitionDiscovery.threshold", str(len(manifest.files) + 1))
    return session


def added_columns(source: Source, manifest: Manifest, existing_columns: Mapping[str, str]) -> dict[str, str]:
    """The columns that a batch's files have beyond those declared and that the contract adds, with their types in the table."""
    found: dict[str, str] = {}
    taken = {c.lower(): c for c in existing_columns}
    for one in manifest.files:
        for name, kind in drift.find_added_columns(source, one.columns or source.columns).items():
            # Of names that differ only in case, the first that came is the table's.
            if taken.setdefault(name.lower(), name) == name:
                found.setdefault(name, existing_columns.get(name, kind))
    return found


def _group_by_columns(source: Source, files: Iterable[LandedFile]) -> list[tuple[Mapping[str, str], list[LandedFile]]]:
    """The files by the columns that they have."""
    found: dict[str, tuple[Mapping[str, str], list[LandedFile]]] = {}
    for one in files:
        columns = one.columns or source.columns
        found.setdefault(json.dumps(list(columns.items())), (columns, []))[1].append(one)
    return list(found.values())


def split_into_chunks(files: Sequence[LandedFile], size: int = CHUNK_BYTES) -> list[list[LandedFile]]:
    """Runs of files by path, of about the same size, at least two where there are two files."""
    ordered = sorted(files, key=lambda one: one.path)
    total = sum(one.size for one in ordered)
    count = min(len(ordered), max(2, -(-total // size)))
    found: list[list[LandedFile]] = [[] for _ in range(count)]
    done = 0
    for one in ordered:
        found[min(count - 1, done * count // max(total, 1))].append(one)
        done += one.size
    return [chunk for chunk in found if chunk]


def _read_files(
    spark: SparkSession, source: Source, columns: Mapping[str, str], files: Sequence[LandedFile], landing: Location
) -> DataFrame:
    """The files' records, their columns by position (`conformance.position`), so that no name of theirs is taken for the platform's."""
    # A CSV file's columns are read by their place; those without any value are not read.
    named = [
        (number, f"_c{number}" if source.format == "csv" else name, kind)
        for number, (name, kind) in enumerate(columns.items())
        if kind != drift.VOID
    ]
    paths = [_escape_glob(to_spark_uri(landing / one.path)) for one in files]
    read, malformed = _read_records(spark, source, {name: kind for _, name, kind in named}, paths)
    # The record number is taken before files share a task: it starts anew with each of them.
    numbered = read.select(
        *[F.col(quote_identifier(name)).alias(conformance.positional_name(number)) for number, name, _ in named],
        *([F.col(malformed).alias(MALFORMED)] if malformed else []),
        read.metadataColumn("_metadata").getField("file_path").alias("_path"),
        (F.monotonically_increasing_id().bitwiseAND(_RECORD_BITS) + 1).alias("_row"),
    )
    return numbered.coalesce(1)


def _file_table(spark: SparkSession, manifest: Manifest, landing: Location) -> DataFrame:
    return spark.createDataFrame(
        pa.table(
            {
                "_path": [_to_spark_uri(landing / one.path) for one in manifest.files],
                "_file_id": [one.file_id for one in manifest.files],
                "_source_file": [one.path for one in manifest.files],
            }
        )
    )


def _read_records(
    spark: SparkSession, source: Source, columns: Mapping[str, str], paths: list[str]
) -> tuple[DataFrame, str | None]:
    """The files' records, and the name of the column with malformed lines where there is one."""
    lower = {name.lower() for name in columns}
    if len(lower) < len(columns):
        spark.conf.set("spark.sql.caseSensitive", "true")
    typed = [f"{quote_identifier(name)} {kind}" for name, kind in columns.items()]
    if source.format == "parquet":
        return spark.read.schema(", ".join(typed)).options(**source.options).parquet(*paths), None
    malformed = MALFORMED
    while malformed in lower:
        malformed += "_"
    schema = ", ".join([*typed, f"`{malformed}` string"])
    reader = spark.read.schema(schema).option("columnNameOfCorruptRecord", malformed).option("mode", "PERMISSIVE")
    if source.format == "json":  # strict, as the file was inspected
        return reader.option("allowSingleQuotes", "false").options(**source.options).json(paths), malformed
    standard = {"header": "true", "escape": '"', "multiLine": "true", "enforceSchema": "true"}
    standard["inputBufferSize"] = str(PARSER_BUFFER_CHARS)
    return reader.options(**standard).options(**source.options).csv(paths), malformed


def _escape_glob(path: str) -> str:
    """The path with what Hadoop would read as a pattern escaped."""
    return re.sub(r"([\\\[\]{}*?])", r"\\\1", path)


def _to_spark_uri(file: Location) -> str:
    """The path as `_metadata.file_path` spells it: a java.net.URI, whose escapes are not those of RFC 3986."""
    scheme = "" if isinstance(file, S3Path) else "file:"
    return scheme + "".join(c if _is_unescaped(c) else quote(c, safe="/_-!.~'()*,;:$&+=@") for c in to_spark_uri(file))


def _is_unescaped(character: str) -> bool:
    """Whether a java.net.URI leaves it as it is: beyond ASCII all but spaces and control characters."""
    return ord(character) > 127 and unicodedata.category(character) not in ("Zs", "Zl", "Zp", "Cc")
