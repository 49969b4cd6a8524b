"""Paths in the landing zone: names that are ignored or rejected, and symbolic links, which are never followed."""

from __future__ import annotations

import errno
from collections.abc import Collection

from lakehouse.storage import location
from lakehouse.storage.location import FileInfo, Location

# Suffixes of unfinished files.
TEMPORARY_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".inprogress", ".crdownload", "~")


def is_ignored(name: str) -> bool:
    """Return whether a name marks a file or folder as hidden or unfinished."""
    return name.startswith(("_", ".")) or name.endswith(TEMPORARY_SUFFIXES)


def find_path_problem(root: Location, path: str) -> str | None:
    """Return the reason to reject a file by its path below the landing zone alone; or None."""
    link = location.find_link(root, path)
    return _describe_link(path, link) if link else _find_name_problem(path)


def stat_files(root: Location, paths: Collection[str]) -> dict[str, FileInfo | OSError]:
    """Look up files by their paths below the landing zone. A symbolic link in a path is an error (ELOOP)."""
    states = location.stat_files(root, paths)
    linked = {path: link for path in paths if (link := location.find_link(root, path))}
    return states | {path: OSError(errno.ELOOP, _describe_link(path, link)) for path, link in linked.items()}


def is_gone(state: FileInfo | OSError) -> bool:
    """Return whether neither a file nor a link has the path."""
    return isinstance(state, OSError) and state.errno != errno.ELOOP


def _describe_link(path: str, link: str) -> str:
    place = "is a symbolic link" if path == link else f"is below the symbolic link {link}"
    return f"{place}, which is not followed; deliver the file itself"


def _find_name_problem(path: str) -> str | None:
    """Return the reason why a manifest cannot name a path; or None."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return None
