"""The reason to reject a landed file as a whole."""

from __future__ import annotations

import errno

from lakehouse.errors import StorageError, get_first_line

_MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
MAX_RECORD_BYTES = 256 << 20


class RejectedFileError(Exception):
    """A file is rejected. The text is the reason, without the file's name."""


class ChangedFileError(RejectedFileError):
    """A file is no longer the pinned one. The next file at its path is a new delivery."""

    def __init__(self) -> None:
        super().__init__("changed while its batch was under way")


def explain_failure(error: Exception) -> str:
    """Return the reason to reject a file after an error of its reader.

    Raises:
        StorageError: the store failed, not the file.
        OSError: this machine has no more space or open files.
    """
    if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _MACHINE_ERRORS):
        raise error
    if isinstance(error, RejectedFileError):
        return str(error)
    if isinstance(error, EOFError):
        return "ends before its compressed data does"
    if isinstance(error, UnicodeDecodeError):
        encoding = "UTF-8" if error.encoding == "utf-8" else error.encoding
        problem = error.object[error.start : error.end][:4].hex(" ")
        return f"is not {encoding} text ({error.reason}: {problem})"
    return f"cannot be read: {get_first_line(error)}"
