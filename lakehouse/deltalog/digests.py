"""Digests of the files that each commit added, beside the table in `_digests/<version>.json`. Needs no Spark.

Delta's log has the size of a file, but nothing that shows a changed bit. A digest has the size and the SHA-256 of a
local file; in a bucket, the store's checksum (ETag). VACUUM leaves folders with a leading underscore alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from urllib.parse import unquote

from lakehouse.deltalog.table_log import TableLog
from lakehouse.errors import StorageError, get_first_line
from lakehouse.storage import location
from lakehouse.storage.location import FileInfo, Location

logger = logging.getLogger(__name__)
FOLDER = "_digests"


@dataclass(frozen=True)
class Digest:
    """The content of one file when its commit was made.

    Attributes:
        path: The path below the table's folder.
        checksum: The SHA-256 of a local file; the ETag in a bucket.
    """

    path: str
    size: int
    checksum: str


@dataclass(frozen=True)
class Verification:
    """Comparison of a table's files with their digests.

    Attributes:
        verified_files: The number of compared files.
        unverified_files: The number of files without a digest, such as those of OPTIMIZE.
        differences: The damaged or missing files, in words.
    """

    verified_files: int
    unverified_files: int
    differences: tuple[str, ...] = ()


def write_digests(table: Location, version: int) -> None:
    """Write the digests of the files that a version added, and of its log file.

    The commit is made. A failure leaves its files without digests, and is logged.
    """
    log_file = f"_delta_log/{version:020d}.json"
    try:
        paths = [log_file, *_list_added_files((table / log_file).read_text(encoding="utf-8"))]
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(lambda path: _compute_digest(table, path), paths))
        content = json.dumps([asdict(digest) for digest in digests], indent=1)
        location.put(table / FOLDER / f"{version:020d}.json", content.encode())
    except (OSError, StorageError) as error:
        logger.warning("%s: no digests of version %s were written (%s).", table, version, get_first_line(error))


def _list_added_files(log: str) -> Iterator[str]:
    """Yield the paths of the data files and of the change files that a commit added below the table's folder."""
    for line in log.splitlines():
        action = json.loads(line)
        path = (action.get("add") or action.get("cdc") or {}).get("path", "")
        if path and ":" not in path and not path.startswith("/"):
            yield unquote(path)


def _compute_digest(table: Location, path: str) -> Digest:
    file = table / path
    return Digest(path, location.get_size(file) or 0, location.compute_identity(file))


def verify_files(log: TableLog) -> Verification:
    """Compare the files of a table, and those of its older versions that still exist, with their digests."""
    digests, differences = _read_digests(log.path)
    current = {unquote(path) for path in log.list_files()}
    states = location.stat_files(log.path, sorted({*digests, *current}))

    def compare(path: str, state: FileInfo | OSError) -> str | None:
        if isinstance(state, OSError):
            return f"lacks the file {path}" if path in current else None
        digest = digests[path]
        if state.size != digest.size:
            return f"has {state.size:,} bytes in {path}, but its commit wrote {digest.size:,}"
        try:
            checksum = state.identity or location.compute_identity(log.path / path)
        except OSError as error:
            return f"has a file that cannot be read: {path} ({error.strerror})"
        return None if checksum == digest.checksum else f"has other content in {path} than its commit wrote"

    compared = {path: state for path, state in states.items() if path in digests or isinstance(state, OSError)}
    with ThreadPoolExecutor() as pool:
        differences += [text for text in pool.map(compare, compared, compared.values()) if text]
    existing = [path for path, state in states.items() if not isinstance(state, OSError)]
    verified = sum(path in digests for path in existing)
    return Verification(verified, len(existing) - verified, tuple(differences))


def _read_digests(table: Location) -> tuple[dict[str, Digest], list[str]]:
    """Read the digest of each file. The earliest one counts: a rollback adds old files again.

    Returns:
        The digests by path, and the files of digests that are damaged, in words.
    """
    digests, differences = dict[str, Digest](), list[str]()
    for name in location.list_names(table / FOLDER):
        try:
            content = json.loads((table / FOLDER / name).read_text(encoding="utf-8"))
            for digest in (Digest(**fields) for fields in content):
                digests.setdefault(digest.path, digest)
        except (ValueError, TypeError):
            differences.append(f"has damaged digests in {FOLDER}/{name}")
    return digests, differences
