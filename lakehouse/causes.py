"""Causes of errors in words: the deepest known cause in a chain through Python, py4j, Java and Rust."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass

from lakehouse.errors import DamagedFileError, locate_error


@dataclass(frozen=True)
class _Kind:
    """A kind of cause.

    Attributes:
        words: What happened.
        advice: What to do.
        codes: The error numbers of the operating system.
        pattern: The kind in the class or text of a Java exception, or in DuckDB's text about a file.
        library_pattern: The kind in the text of another library: pyarrow, DuckDB, or DataFusion in delta-rs.
    """

    words: str
    advice: str
    codes: tuple[int, ...] = ()
    pattern: str = "(?!)"
    library_pattern: str = "(?!)"


_KINDS = (
    _Kind(
        "no space is left on the disk",
        "Free space, then run again",
        (errno.ENOSPC, errno.EDQUOT),
        "No space left on device|Disk quota exceeded",
    ),
    _Kind(
        "out of memory",
        "Give the process more memory (spark.driver.memory in conf/spark), or write fewer tables at once "
        "(parallel_tables)",
        (errno.ENOMEM,),
        "OutOfMemoryError|Cannot allocate memory",
    ),
    _Kind(
        "out of memory",
        "Give the process more memory, or read fewer rows at once",
        library_pattern="^Out of Memory Error: |Resources exhausted: ",
    ),
    _Kind(
        "a checksum does not match, the file is damaged",
        "Restore the file",
        pattern="ChecksumException|Checksum error|CRC checksum verification failed",
        library_pattern="CRC checksum verification failed",
    ),
    _Kind(
        "access is denied",
        "Check the owner and the permissions",
        (errno.EACCES, errno.EPERM),
        "Permission denied|Operation not permitted|AccessDeniedException|AccessControlException",
    ),
    _Kind("the file system is read-only", "Make it writable", (errno.EROFS,), "Read-only file system"),
    _Kind(
        "too many files are open", "Raise the limit (ulimit -n)", (errno.EMFILE, errno.ENFILE), "Too many open files"
    ),
    _Kind("the disk reports an input/output error", "Check the disk", (errno.EIO,), "Input/output error"),
)
# The line of a Java exception, and its kinds that concern the machine. Others may quote values.
_JAVA_LINE = re.compile(r"^(?:Caused by: |: )?([a-z][\w.$]*\.[A-Z][\w$]*(?:Exception|Error)): ?(.*)$", re.MULTILINE)
_MACHINE = re.compile(r"java\.(?:io|nio)\.|org\.apache\.(?:hadoop|parquet)\.|.*OutOfMemoryError$")
_RUST_CODE = re.compile(r"\(os error (\d+)\)")
_RUST_PATH = re.compile(r'(?<![\w.:/])(/[^\n:"]+)"?: [^\n]*\(os error \d+\)')
_JAVA_PATH = re.compile(r"(?:file:/{1,3}|s3a://|/)[^\s()]+")
# The arrows between the causes of a Rust error, and the frames of Java's and Rust's stacks.
_RUST_ARROW = re.compile(r"\s*\n\s*(?:\x1b\[\d*m)?↳(?:\x1b\[\d*m)?\s*")
_FRAME = re.compile(r"\s*at |\s+\d+: ")
# Modules of the classes of DuckDB, delta-rs and pyarrow.
_LIBRARIES = ("duckdb", "_duckdb", "deltalake", "_internal", "pyarrow")
_QUOTED_PATH = re.compile(r'"(/[^"\\\n]+)')
_TASK_PATH = re.compile(r"(?:reading file|writing rows to) ((?:file|s3a):/[^\s]+)")
_PY4J_CALL = re.compile(r"An error occurred while calling \S+\s*:?\s*")


def describe_cause(error: BaseException) -> str:
    """Describe an error by its deepest known cause, with the file where one is known; else by its first lines.

    The place in the user's own code follows in brackets.
    """
    return describe_known_cause(error) or _shorten(error) + locate_error(error)


def describe_known_cause(error: BaseException) -> str | None:
    """Describe an error by its deepest cause that concerns the machine or a damaged file; None without one."""
    chain = list(_walk_chain(error))
    for each in reversed(chain):
        kind, path = _classify(each)
        if kind:
            path = path or _find_path(chain)
            return f"{kind.words}{f' ({path})' if path else ''}. {kind.advice}."
    return None


def _find_path(chain: list[BaseException]) -> str:
    """Return the damaged file, or the file or folder that Spark's task worked on; empty where no error names it."""
    for error in chain:
        if isinstance(error, DamagedFileError):
            return error.path
    paths = [path for error in chain for path in _TASK_PATH.findall(_get_text(error))]
    return str(paths[-1]).rstrip(".:,") if paths else ""


def _walk_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes: those of Python, and those that PySpark keeps of Java's exceptions."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        context = None if error.__suppress_context__ else error.__context__
        error = getattr(error, "_cause", None) or error.__cause__ or context


def _classify(error: BaseException) -> tuple[_Kind | None, str]:
    """Return the kind of one error of a chain, and the path that it names."""
    if isinstance(error, MemoryError):
        return _find_kind(errno.ENOMEM), ""
    if isinstance(error, OSError) and (kind := _find_kind(error.errno)):
        return kind, str(error.filename2 or error.filename or "")
    text = _get_text(error)
    if (match := _RUST_CODE.search(text)) and (kind := _find_kind(int(match[1]))):
        path = _RUST_PATH.search(text)
        return kind, path[1] if path else ""
    # delta-rs raises DataFusion's errors as plain Exception.
    is_native = isinstance(error, OSError) or type(error) is Exception
    if is_native or type(error).__module__.partition(".")[0] in _LIBRARIES:
        return _classify_library_error(text)
    return _classify_java_error(text)


def _classify_library_error(text: str) -> tuple[_Kind | None, str]:
    """Return the kind of an error of pyarrow, DuckDB or delta-rs, and the path that it names."""
    is_io_error = text.startswith("IO Error: ")  # DuckDB's
    path = _QUOTED_PATH.search(text) if is_io_error else None
    for kind in _KINDS:
        if re.search(kind.library_pattern, text) or (is_io_error and re.search(kind.pattern, text)):
            return kind, path[1] if path else ""
    return None, ""


def _classify_java_error(text: str) -> tuple[_Kind | None, str]:
    """Return the kind of the deepest Java exception that concerns the machine, and the path that it names."""
    for name, message in reversed(_JAVA_LINE.findall(text)):
        if _MACHINE.match(name):
            for kind in _KINDS:
                if re.search(kind.pattern, f"{name}: {message}"):
                    path = _JAVA_PATH.search(message)
                    return kind, path[0].rstrip(".:,") if path else ""
    return None, ""


def _find_kind(code: int | None) -> _Kind | None:
    return next((kind for kind in _KINDS if code in kind.codes), None)


def _get_text(error: BaseException) -> str:
    """Return the text of an error, with Java's stack trace where PySpark keeps it beside."""
    trace = getattr(error, "_stackTrace", None) or getattr(error, "_stacktrace", None) or ""
    return f"{_RUST_ARROW.sub(': ', str(error))}\n{trace}"


def _shorten(error: BaseException) -> str:
    """Return the first lines of an error, without query plan, py4j's call, and the stack traces of Java and Rust."""
    text = _PY4J_CALL.sub("", _RUST_ARROW.sub(": ", str(error)), count=1).split("\n'", 1)[0].split("\n==", 1)[0]
    lines = [line for line in text.splitlines() if line.strip() and not _FRAME.match(line)]
    return " ".join(lines[:3])[:600] or type(error).__name__
