"""Staging of a batch by Spark's workers, each with the reader of landed files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lakehouse.errors import LandingError, WorkerLostError
from lakehouse.landing.manifest import LandedFile
from lakehouse.landing.reader.part_statistics import ColumnStatistics
from lakehouse.landing.reader.staging import Part, StagedBatch, Verdict, open_part_folder, put_into, stage_files
from lakehouse.landing.reader.task import StagingTask, parse_location
from lakehouse.storage.location import Location

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

# Landed bytes per task.
CHUNK_BYTES = 32 << 20
# Texts of Spark's errors about a worker or an executor that ended.
_LOST_WORKER = ("Python worker exited unexpectedly", "ExecutorLostFailure")


def stage_on_workers(spark: SparkSession, task: StagingTask, table: Location) -> StagedBatch:
    """Stage files by Spark's workers, which write the parts into the folder of the table.

    A worker that fails leaves parts that no commit names. VACUUM removes them.

    Args:
        table: the folder of the table, which the workers and this process share.

    Raises:
        LandingError: the workers' Python cannot run the reader.
        WorkerLostError: a worker ended, for example as a file takes all of its memory.
    """
    from pyspark.errors import PythonException

    # Files that add columns agree on their types and spelling only within one task.
    chunks = [task.files] if task.source.contract.new_column == "add" else split_into_chunks(task.files)
    texts, place = [replace(task, files=chunk).to_json() for chunk in chunks], str(table)

    def stage(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return _stage_chunks(texts, place, batches)

    numbers = spark.range(0, len(texts), 1, len(texts))
    try:
        rows = numbers.mapInArrow(stage, "number bigint, staged string").collect()
    except PythonException as error:
        traceback, _, _ = str(error).partition("\n\nJVM stacktrace:")
        cause = traceback.strip().splitlines()[-1]
        advice = "Run again."
        if "ModuleNotFoundError" in cause or "ImportError" in cause:
            advice = "Install the project's packages on the workers, as on the driver."
        raise LandingError(
            f"{task.source.name}: Spark's workers did not read the landed files ({cause}). {advice}"
        ) from error
    except Exception as error:
        if not any(text in str(error) for text in _LOST_WORKER):
            raise
        raise WorkerLostError(
            f"{task.source.name}: a process of Spark ended while it read the landed files. "
            "Run again: a file that ends its reader is then rejected."
        ) from error
    return _combine([json.loads(row["staged"]) for row in sorted(rows, key=lambda row: row["number"])])


def split_into_chunks(files: Sequence[LandedFile], size: int = CHUNK_BYTES) -> list[tuple[LandedFile, ...]]:
    """Split files, in their order, into chunks of about the same size, at least two if there are two files."""
    total = sum(file.size for file in files)
    count = min(len(files), max(2, -(-total // size)))
    chunks: list[list[LandedFile]] = [[] for _ in range(count)]
    start = 0
    for file in files:
        chunks[min(count - 1, start * count // max(total, 1))].append(file)
        start += file.size
    return [tuple(chunk) for chunk in chunks if chunk]


def _stage_chunks(texts: Sequence[str], place: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Stage chunks by their numbers, and yield the number and the result of each."""
    import pyarrow as pa

    for batch in batches:
        for number in batch.column(0).to_pylist():
            staged = _stage_chunk(StagingTask.from_json(texts[number]), parse_location(place))
            yield pa.RecordBatch.from_pydict({"number": [number], "staged": [json.dumps(staged)]})


def _stage_chunk(task: StagingTask, table: Location) -> dict[str, Any]:
    with open_part_folder(table) as folder:
        staged = stage_files(task, folder)
        parts = [put_into(table, part) for part in staged.parts]
    return {
        "parts": [{**asdict(part), "path": str(part.path)} for part in parts],
        "verdicts": [asdict(verdict) for verdict in staged.verdicts],
        "added_columns": dict(staged.added_columns),
    }


def _combine(results: Sequence[dict[str, Any]]) -> StagedBatch:
    added: dict[str, str] = {}
    for result in results:
        added |= result["added_columns"]
    parts = [_parse_part(part) for result in results for part in result["parts"]]
    verdicts = [Verdict(**verdict) for result in results for verdict in result["verdicts"]]
    return StagedBatch(tuple(parts), tuple(verdicts), added)


def _parse_part(fields: dict[str, Any]) -> Part:
    statistics = {
        name: ColumnStatistics(column["null_count"], tuple(column["limits"]))
        for name, column in fields["statistics"].items()
    }
    return Part(parse_location(fields["path"]), fields["size"], fields["row_count"], statistics)
