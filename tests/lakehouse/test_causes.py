"""Causes of errors in words, as Python, py4j, PySpark, Java and Rust report them."""

from __future__ import annotations

import errno
import itertools
import os

import pytest

from lakehouse.causes import describe_cause

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
