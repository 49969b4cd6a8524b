"""Causes of errors in words, as Python, py4j, PySpark, Java and Rust report them."""

from __future__ import annotations

import errno
import itertools
import os

import duckdb
import pytest
from deltalake.exceptions import DeltaError

from lakehouse.causes import describe_cause, describe_known_cause
from lakehouse.errors import DamagedFileError

FULL = "no space is left on the disk"
FREE = "Free space, then run again."
NO_SPACE = "java.io.IOException: No space left on device"
DENIED = "Check the owner and the permissions."
MEMORY = (
    "Give the process more memory (spark.driver.memory in conf/spark), or write fewer tables at once (parallel_tables)."
)
TARGET = "file:/lake/raw/items"
PY4J = """An error occurred while calling o123.save.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 1.0 failed 1 times
\tat org.apache.spark.scheduler.DAGScheduler.abort(DAGScheduler.scala:1)
Caused by: org.apache.spark.SparkException: [TASK_WRITE_FAILED] Task failed while writing rows to file:/lake/raw/items.
\tat org.apache.spark.sql.execution.Write.run(Write.scala:1)
Caused by: {}
\tat java.base/java.io.FileOutputStream.writeBytes(Native Method)
\t... 9 more
"""


class CapturedError(Exception):
    """An exception like those of PySpark: the text is Java's first line, the trace lies beside."""

    def __init__(self, text: str, trace: str = "", cause: Exception | None = None) -> None:
        super().__init__(text)
        self._stackTrace, self._cause = trace, cause


def java(cause: str) -> Exception:
    """Return an error of py4j with the cause."""
    return RuntimeError(PY4J.format(cause))


def chain(*errors: Exception) -> Exception:
    """Return the first error, raised from the others."""
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/lake/a"), f"{FULL} (/lake/a). {FREE}"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), f"{FULL}. {FREE}"),
        (chain(RuntimeError("a write failed"), OSError(errno.ENOSPC, "", "/x")), f"{FULL} (/x). {FREE}"),
        (java(NO_SPACE), f"{FULL} ({TARGET}). {FREE}"),
        (java(f"org.apache.hadoop.fs.FSError: {NO_SPACE}"), f"{FULL} ({TARGET}). {FREE}"),
        (CapturedError("x", str(java("java.io.IOException: Disk quota exceeded"))), f"{FULL} ({TARGET}). {FREE}"),
        (CapturedError("x", cause=CapturedError("y", NO_SPACE)), f"{FULL}. {FREE}"),
        (OSError("Generic LocalFileSystem error: No space left on device (os error 28)"), f"{FULL}. {FREE}"),
        (PermissionError(errno.EACCES, "", "/landing/a.csv"), f"access is denied (/landing/a.csv). {DENIED}"),
        (java("java.io.FileNotFoundException: /lake/x (Permission denied)"), f"access is denied (/lake/x). {DENIED}"),
        (java("java.nio.file.AccessDeniedException: /lake/x"), f"access is denied (/lake/x). {DENIED}"),
        (
            java("org.apache.hadoop.fs.ChecksumException: Checksum error: file:/lake/x at 0 exp: 1 got: 2"),
            "a checksum does not match, the file is damaged (file:/lake/x). Restore the file.",
        ),
        (java("java.lang.OutOfMemoryError: Java heap space"), f"out of memory ({TARGET}). {MEMORY}"),
        (java("org.apache.spark.memory.SparkOutOfMemoryError: no"), f"out of memory ({TARGET}). {MEMORY}"),
        (MemoryError(), f"out of memory. {MEMORY}"),
    ],
)
def test_the_deepest_cause_is_described(error: Exception, text: str) -> None:
    assert describe_cause(error) == text


ARROW = "\n    \x1b[31m↳\x1b[0m "
RESTORE = "a checksum does not match, the file is damaged{}. Restore the file."
MISMATCH = "could not verify page integrity, CRC checksum verification failed"
TOO_MUCH = "out of memory. Give the process more memory, or read fewer rows at once."


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(f"{MISMATCH} for page_ordinal 0"), RESTORE.format("")),
        (
            duckdb.InvalidInputException(
                f"Invalid Input Error: reading the stream registered as 'dd' failed: IOError: {MISMATCH} for page 0"
            ),
            RESTORE.format(""),
        ),
        (chain(DamagedFileError("x", "/lake/x.parquet"), OSError(MISMATCH)), RESTORE.format(" (/lake/x.parquet)")),
        (
            CapturedError(
                "[TASK_WRITE_FAILED] Task failed while writing rows to file:/lake/clean/items. SQLSTATE: 58030",
                "Caused by: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while "
                "reading file file:/lake/x.parquet.  SQLSTATE: KD001\n\tat org.apache.x(Y.java:1)\n"
                f"Caused by: org.apache.parquet.io.ParquetDecodingException: {MISMATCH}\n\tat org.apache.x(Y.java:1)",
            ),
            RESTORE.format(" (file:/lake/x.parquet)"),
        ),
        (duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate data of size 2.0 MiB"), TOO_MUCH),
        (
            DeltaError(
                "Failed to parse parquet: Parquet error: Z-order failed while scanning data: Not enough memory to "
                "continue external sort.\ncaused by\nResources exhausted: Failed to allocate additional 10.0 MB for "
                "ExternalSorterMerge[0] with 0.0 B already allocated for this reservation"
            ),
            TOO_MUCH,
        ),
        (
            duckdb.IOException(
                'IO Error: Async write failed for range [offset=0, size=5]: {"exception_type":"IO",'
                '"exception_message":"Could not write file \\"/full/x\\": No space left on device","errno":"28"}'
            ),
            f"{FULL} (/full/x). {FREE}",
        ),
        (
            OSError(
                f"Kernel error -> Generic LocalFileSystem error{ARROW}Unable to open file /a b/_delta_log/_last"
                f"{ARROW}Permission denied (os error 13)\n"
            ),
            f"access is denied (/a b/_delta_log/_last). {DENIED}",
        ),
        (
            DeltaError(
                "External error: Generic DeltaTable error: Error interacting with object store: Generic "
                "LocalFileSystem error: Unable to walk dir: IO error for operation on /a/_delta_log: "
                "Too many open files (os error 24)"
            ),
            "too many files are open (/a/_delta_log). Raise the limit (ulimit -n).",
        ),
        (duckdb.ConversionException("Conversion Error: Could not convert string 'IO Error: Permission denied'"), None),
        (duckdb.IOException('IO Error: No files found that match the pattern "/no/such"'), None),
    ],
)
def test_causes_of_other_libraries_are_described(error: Exception, text: str | None) -> None:
    """The texts are those of pyarrow 25, DuckDB 2.0, delta-rs 1.6 and Spark 4.1."""
    assert describe_known_cause(error) == text


def test_frames_of_rust_are_left_out() -> None:
    error = DeltaError(
        "Kernel error: Json error: Truncated record\n   0: <unknown>\n  12: start_thread\n   at ./nptl/x.c:4"
    )
    assert describe_cause(error) == "Kernel error: Json error: Truncated record"
    assert (
        describe_cause(OSError(f"Generic error{ARROW}Not found (os error 2)\n"))
        == "Generic error: Not found (os error 2)"
    )


QUOTED = "[CAST_INVALID_INPUT] The value 'java.io.IOException: No space left on device' is no BIGINT"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ZeroDivisionError("the code is wrong"), "the code is wrong"),
        (KeyError("x"), "'x'"),
        (RuntimeError(), "RuntimeError"),
        (chain(ValueError("the rate is unknown"), KeyError("EUR")), "the rate is unknown"),
        (CapturedError(QUOTED), QUOTED),
        (ValueError("the value is 'Permission denied'"), "the value is 'Permission denied'"),
        (RuntimeError("An error occurred while calling o1.x.\n: java.lang.X: no\n\tat a.b(c)"), "java.lang.X: no"),
    ],
)
def test_other_errors_keep_their_own_words(error: Exception, text: str) -> None:
    assert describe_cause(error) == text


def test_a_circle_of_causes_ends() -> None:
    first, second = RuntimeError("one"), RuntimeError("two")
    first.__cause__, second.__cause__ = second, first
    assert describe_cause(first) == "one"
